"""Images of a folder, the features that a network gives of them, and features kept by content."""

import contextlib
import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from src.common.classes import LABELS
from src.common.cli import UserError
from src.common.files import cache_dir, write_whole
from src.common.images import PICTURES, Remarks, list_pictures, read_picture, say_left_out
from src.common.processes import Processes
from src.common.progress import Progress
from src.evaluation.feature_networks import FeatureNetwork

PART = 1000  # images whose features are kept at a time, until all of them are there
CPU_BATCH_SIZE = 8  # larger batches only cost the CPU memory, and a sixth of its time to have it cleared
T = TypeVar("T")


# -------------------------------------------------------------------------------------------------------------- images


def read_images(folder: str | Path) -> np.ndarray:
    """All pictures directly in a folder, by sorted name, as RGB: uint8 (N, 3, H, W), N at least 2.

    What is left out, and what is lost of the pictures, is printed in one line each. Raises UserError where the folder is
    absent, holds fewer than two images, or an image is unreadable or of another size than the first.
    """
    folder = Path(folder)
    return read_pictures(picture_files(folder), folder)


def picture_files(folder: Path) -> list[Path]:
    """All pictures directly in a folder, by sorted name. Says what is left out. Raises UserError where it is absent."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    pictures, left_out = list_pictures(folder)
    say_left_out(folder, [name for name in left_out if name != LABELS])
    return [folder / name for name in pictures]


def read_pictures(files: Sequence[Path], folder: Path) -> np.ndarray:
    """These pictures in a folder, as RGB: uint8 (N, 3, H, W), N at least 2. Raises UserError as read_images does."""
    if len(files) < 2:
        raise UserError(f"{folder} holds {len(files)} images ({', '.join(PICTURES)}); FID needs at least two")
    images, remarks = np.empty(0, dtype=np.uint8), Remarks(folder)
    for i, file in enumerate(files):
        image = np.asarray(read_picture(file, str(file), remarks))
        if i == 0:
            images = np.empty((len(files), *image.shape), dtype=np.uint8)
        if image.shape != images.shape[1:]:
            sizes = [
                f"{each.relative_to(folder)} is {width}x{height}"
                for each, (height, width) in ((files[0], images.shape[1:3]), (file, image.shape[:2]))
            ]
            raise UserError(f"{folder}: images of different sizes: {', '.join(sizes)}; expected one size for all")
        images[i] = image
    remarks.say()
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def comparability_warnings(generated: np.ndarray, reference: np.ndarray) -> list[str]:
    """What makes scores of these two sets of samples, such as images (N, 3, H, W), incomparable with the challenge's."""
    warnings = []
    if len(generated) != len(reference):
        warnings.append(
            f"{len(generated)} generated and {len(reference)} reference images; FID depends on the number of images, so "
            "compare it only with scores of the same two numbers"
        )
    if generated.shape[1:] != reference.shape[1:] and generated.ndim == 4:
        (height, width), (rows, columns) = generated.shape[2:], reference.shape[2:]
        warnings.append(
            f"generated images are {width}x{height}, reference images {columns}x{rows}; both are resized to 299x299"
        )
    return warnings


# ------------------------------------------------------------------------------------------------------------ features


def extract_features(
    images: np.ndarray,
    network: FeatureNetwork,
    mode: str = "clean",
    batch_size: int = 64,
    description: str | None = None,
    parts: Path | None = None,
) -> np.ndarray:
    """A feature network's features of images, uint8 (N, 3, H, W) -> float32 (N, columns), without TF32, so that devices agree.

    mode: one of the network's. batch_size: on the CPU at most 8. description: the title of a progress bar, none without it.
    parts: a folder where the features of every 1,000 images are kept, if there are more, and taken from: after an
    interruption it goes on from them. Raises ValueError for other images, or an unknown mode.
    """
    if mode not in network.modes:
        raise ValueError(f"unknown mode {mode!r}; expected one of {', '.join(network.modes)}")
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 images (N, 3, H, W), got {images.dtype} {images.shape}")
    device = next(itertools.chain(network.parameters(), network.buffers())).device
    if device.type == "cpu":
        batch_size = min(batch_size, CPU_BATCH_SIZE)
    features = np.empty((len(images), network.columns), dtype=np.float32)
    files = {first: parts / f"{first:08d}.npy" for first in range(0, len(images), PART)} if parts and len(images) > PART else {}
    missing = []
    for first in range(0, len(images), PART):
        rows = slice(first, min(first + PART, len(images)))
        kept = _read_features(files[first], rows.stop - first) if files else None
        if kept is None:
            missing.append(rows)
        else:
            features[rows] = kept
    done = len(images) - sum(rows.stop - rows.start for rows in missing)  # of no weight for the time that is left
    with (
        torch.inference_mode(),
        torch.autocast(device.type, enabled=False),
        _exact_float32(),
        Progress(len(images), description, "image", done) as progress,
    ):
        for rows in missing:
            for start in range(rows.start, rows.stop, batch_size):
                pixels = np.array(images[start : min(start + batch_size, rows.stop)])  # torch warns of read-only arrays
                batch = torch.from_numpy(pixels).to(device).float()
                features[start : start + len(batch)] = network.features(batch, mode).cpu().numpy()
                progress.update(len(batch))
            if files:
                _write_features(features[rows], files[rows.start])
    return features


@contextlib.contextmanager
def _exact_float32() -> Iterator[None]:
    """Inside the block, float32 products are made without TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


# --------------------------------------------------------------------------------------------------------------- cache


def cached_features(
    images: np.ndarray,
    network: FeatureNetwork,
    mode: str = "clean",
    batch_size: int = 64,
    description: str | None = None,
    processes: Processes | None = None,
) -> np.ndarray:
    """As extract_features, but kept in the project's cache under the hash of pixels, shape, mode and weights."""

    def extract(mine: np.ndarray, parts: Path) -> np.ndarray:
        return extract_features(mine, network, mode, batch_size, description, parts)

    return cached_by_content(images, f"{mode} {network.sha256}", extract, processes)


def resumable_features(
    images: np.ndarray, network: FeatureNetwork, mode: str = "clean", batch_size: int = 64, description: str | None = None
) -> np.ndarray:
    """As extract_features; of more than 1,000 images the cache holds what is done until all of it is."""
    parts = content_file(images, f"{mode} {network.sha256}")
    features = extract_features(images, network, mode, batch_size, description, parts)
    shutil.rmtree(parts, ignore_errors=True)
    return features


def cached_by_content(
    images: np.ndarray,
    words: str,
    extract: Callable[[np.ndarray, Path], np.ndarray],
    processes: Processes | None = None,
) -> np.ndarray:
    """extract(images, parts)'s features, float32 (N, D), kept in the project's cache by the hash of pixels, shape and words.

    words: everything else that the features depend on: the network's hash, the way of resizing. parts: a folder that extract
    may keep unfinished work in. Several processes extract a share of the images each, and all get the features of all. A
    damaged file of the cache is said and made again. Raises UserError where the cache cannot be written.
    """
    processes = processes or Processes()
    file = content_file(images, words, ".npy")
    kept = _read_features(file, len(images))
    if all(processes.gather(kept is not None)):  # machines may have a cache each
        return kept
    mine = images[processes.share(len(images))]
    parts = content_file(mine, words)
    features = np.concatenate(processes.gather(extract(mine, parts)))
    if processes.is_first:
        _write_features(features, file)
    shutil.rmtree(parts, ignore_errors=True)
    return features


def content_file(images: np.ndarray, words: str, ending: str = "") -> Path:
    """Where the project's cache keeps what follows from these images and words."""
    digest = hashlib.sha256(f"{images.shape} {words}\n".encode())
    digest.update(np.ascontiguousarray(images))
    return cache_dir() / "features" / f"{digest.hexdigest()}{ending}"


def read_cached(file: Path, read: Callable[[Path], T]) -> T | None:
    """read(file) of the project's cache; None where there is no file, or it is damaged, which is said."""
    try:
        return read(file) if file.is_file() else None
    except (UserError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        print(f"making the cached {file} again: {str(error).splitlines()[0]}")
        return None


def _read_features(file: Path, count: int) -> np.ndarray | None:
    """The features (count, D) in a file of the cache; None as of read_cached."""

    def read(file: Path) -> np.ndarray:
        features = np.load(file)
        if features.ndim != 2 or len(features) != count or features.dtype != np.float32 or not np.isfinite(features).all():
            raise ValueError(f"holds {features.dtype} {features.shape}, or values that are not finite")
        return features

    return read_cached(file, read)


def _write_features(features: np.ndarray, file: Path) -> None:
    with write_whole(file) as partial, partial.open("wb") as stream:
        np.save(stream, features)
