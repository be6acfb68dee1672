"""Mean and covariance of Inception features, all that FID takes of the real images, in the files of pytorch-fid.

Those of a data set whose features take an hour are shipped, in data/statistics: known by the content of the images, the way of
resizing and the network's weights, whatever the file is called. `python -m recipes.ship_statistics` makes them.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.common.cli import UserError
from src.common.files import PROJECT_ROOT, write_whole
from src.common.processes import Processes
from src.evaluation.features import cached_features, content_file, read_cached
from src.evaluation.inception import FEATURES, Inception

BLOCK = 8192  # rows that are centred at a time
SHIPPED = PROJECT_ROOT / "data" / "statistics"


@dataclass(frozen=True)
class Statistics:
    """The mean mu (D,) and the covariance sigma (D, D), that of N - 1, of features; float64."""

    mu: np.ndarray
    sigma: np.ndarray


def statistics_of(features: np.ndarray) -> Statistics:
    """The statistics of features (N, D), N at least 2, in float64 whatever they are in."""
    mu = features.mean(axis=0, dtype=np.float64)
    sigma = np.zeros((len(mu), len(mu)))
    for start in range(0, len(features), BLOCK):
        centred = features[start : start + BLOCK] - mu
        sigma += centred.T @ centred
    return Statistics(mu, sigma / (len(features) - 1))


def cached_statistics(
    images: np.ndarray,
    inception: Inception,
    mode: str = "pytorch",
    batch_size: int = 64,
    description: str | None = None,
    processes: Processes | None = None,
) -> Statistics:
    """The statistics of images, uint8 (N, 3, H, W): shipped, or kept in the cache as cached_features keeps their features."""
    processes = processes or Processes()
    file = content_file(images, f"{mode} {inception.sha256}", "_statistics.npz")
    if (shipped := read_shipped(file.stem)) is not None:
        return shipped
    kept = read_cached(file, read_statistics)
    if all(processes.gather(kept is not None)):
        return kept
    features = cached_features(images, inception, mode, batch_size, description, processes)
    made = processes.first_says(statistics_of(features) if processes.is_first else None)
    if processes.is_first:
        write_statistics(made, file)
    return made


def read_shipped(content: str) -> Statistics | None:
    """The statistics of this content that come with the kit; None where there are none."""
    for file in sorted(SHIPPED.glob("*.npz")):
        with np.load(file, allow_pickle=False) as arrays:
            if str(arrays["content"]) == content:
                mu = arrays["mu"]
                sigma = np.zeros((len(mu), len(mu)))
                sigma[np.triu_indices(len(mu))] = arrays["upper_sigma"]
                return Statistics(mu, sigma + np.triu(sigma, 1).T)
    return None


def write_shipped(statistics: Statistics, content: str, path: str | Path) -> None:
    """Write statistics of this content to be shipped: of the covariance the upper half, in float32."""
    upper = statistics.sigma[np.triu_indices(len(statistics.mu))].astype(np.float32)
    with write_whole(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, content=content, mu=statistics.mu, upper_sigma=upper)


def write_statistics(statistics: Statistics, path: str | Path) -> None:
    """Write a file that `python -m pytorch_fid FOLDER FILE` takes for a folder: an npz with mu and sigma."""
    with write_whole(path) as partial, open(partial, "wb") as file:
        np.savez(file, mu=statistics.mu, sigma=statistics.sigma)


def read_statistics(path: str | Path) -> Statistics:
    """What pytorch-fid's --save-stats or write_statistics wrote: mu (2048,) and sigma (2048, 2048).

    Raises UserError where the file is absent, no such npz, of another number of features, or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no statistics at {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("mu", "sigma") if name in getattr(file, "files", ())}
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable npz file ({error})") from error
    if absent := [name for name in ("mu", "sigma") if name not in arrays]:
        raise UserError(f"{path} has no {' and no '.join(absent)}: expected pytorch-fid's npz with mu and sigma")
    mu, sigma = arrays["mu"], arrays["sigma"]
    if (mu.shape, sigma.shape) != ((FEATURES,), (FEATURES, FEATURES)):
        expected = f"({FEATURES},) and ({FEATURES}, {FEATURES}): the statistics of Inception's last pool"
        raise UserError(f"{path}: mu is {mu.shape} and sigma {sigma.shape}, expected {expected}")
    if not all(np.issubdtype(each.dtype, np.floating) and np.isfinite(each).all() for each in (mu, sigma)):
        raise UserError(f"{path}: mu or sigma hold what is no finite number")
    return Statistics(mu.astype(np.float64), sigma.astype(np.float64))
