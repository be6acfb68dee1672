"""Images of a folder, their Inception features, and the features kept by content.

Two published ways of bringing an image to the network's 299x299 are followed, and differ by points of FID: `clean`, the
default of clean-fid (Parmar et al., arXiv:2104.11222), and `pytorch`, that of pytorch-fid.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from src.common.classes import LABELS
from src.common.cli import UserError
from src.common.files import cache_dir, write_whole
from src.common.images import PICTURES, Remarks, list_pictures, read_picture, say_left_out
from src.common.processes import Processes
from src.common.progress import Progress
from src.evaluation.inception import FEATURES, INPUT_SIZE, Inception

MODES = ("clean", "pytorch")
PART = 1000  # images whose features are kept at a time, until all of them are there
CPU_BATCH_SIZE = 8  # larger batches only cost the CPU memory, and a sixth of its time to have it cleared


def read_images(folder: str | Path) -> np.ndarray:
    """All pictures directly in a folder, by sorted name, as RGB: uint8 (N, 3, H, W), N at least 2.

    What is left out, and what is lost of the pictures, is printed in one line each.

    Raises UserError where the folder is absent, holds fewer than two images, or an image is unreadable or of another
    size than the first.
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
    names, remarks = [file.relative_to(folder) for file in files], Remarks(folder)
    first = _read_image(files[0])
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    for i, file in enumerate(files):
        image = _read_image(file, remarks)
        if image.shape != first.shape:
            raise UserError(
                f"{folder}: images of different sizes: {names[0]} is {_size(first)}, {names[i]} is {_size(image)}; "
                "expected one size for all"
            )
        images[i] = image
    remarks.say()
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def extract_features(
    images: np.ndarray,
    inception: Inception,
    mode: str = "clean",
    batch_size: int = 64,
    description: str | None = None,
    parts: Path | None = None,
) -> np.ndarray:
    """The pooled Inception features of images, uint8 (N, 3, H, W) -> float32 (N, 2048).

    mode: "clean" or "pytorch", the resizing and scaling of clean-fid or pytorch-fid. batch_size: images per call of the
    network, on the CPU at most 8. description: the title of a progress bar, none without it. parts: as of run_network. Runs on
    the network's device, in float32 without TF32, so that devices agree.
    Raises ValueError for arrays of another shape or type, or an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; expected one of {', '.join(MODES)}")
    prepare = {"clean": _prepare_clean, "pytorch": _prepare_pytorch}[mode]
    device = next(inception.parameters()).device
    return run_network(images, lambda batch: inception(prepare(batch)), FEATURES, device, batch_size, description, parts)


def run_network(
    images: np.ndarray,
    network: Callable[[torch.Tensor], torch.Tensor],
    columns: int,
    device: torch.device,
    batch_size: int = 64,
    description: str | None = None,
    parts: Path | None = None,
) -> np.ndarray:
    """network's features of images, uint8 (N, 3, H, W) -> float32 (N, columns), as extract_features makes those of Inception.

    network: float32 pixels (B, 3, H, W) in 0..255 on the device -> (B, columns). parts: a folder where the features of every
    1,000 images are kept, if there are more, and taken from if they are there: after an interruption it goes on from them.
    Raises ValueError for other images.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 images (N, 3, H, W), got {images.dtype} {images.shape}")
    if device.type == "cpu":
        batch_size = min(batch_size, CPU_BATCH_SIZE)
    features = np.empty((len(images), columns), dtype=np.float32)
    keeps = parts is not None and len(images) > PART
    missing = []
    for first in range(0, len(images), PART):
        rows = slice(first, min(first + PART, len(images)))
        kept = _read_features(parts / _part_name(first), rows.stop - first) if keeps else None
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
                features[start : start + len(batch)] = network(batch).cpu().numpy()
                progress.update(len(batch))
            if keeps:
                _write_features(features[rows], parts / _part_name(rows.start))
    return features


def cached_features(
    images: np.ndarray,
    inception: Inception,
    mode: str = "clean",
    batch_size: int = 64,
    description: str | None = None,
    processes: Processes | None = None,
) -> np.ndarray:
    """As extract_features, but kept in the project's cache under the hash of pixels, shape, mode and weights."""

    def extract(mine: np.ndarray, parts: Path) -> np.ndarray:
        return extract_features(mine, inception, mode, batch_size, description, parts)

    return cached_by_content(images, f"{mode} {inception.sha256}", extract, processes)


def resumable_features(
    images: np.ndarray, inception: Inception, mode: str = "clean", batch_size: int = 64, description: str | None = None
) -> np.ndarray:
    """As extract_features; of more than 1,000 images the cache holds what is done until all of it is."""
    if len(images) <= PART:
        return extract_features(images, inception, mode, batch_size, description)
    parts = content_file(images, f"{mode} {inception.sha256}")
    features = extract_features(images, inception, mode, batch_size, description, parts)
    shutil.rmtree(parts)
    return features


def cached_by_content(
    images: np.ndarray,
    words: str,
    extract: Callable[[np.ndarray, Path], np.ndarray],
    processes: Processes | None = None,
) -> np.ndarray:
    """extract(images, parts)'s features, float32 (N, D), kept in the project's cache by the hash of pixels, shape and words.

    words: everything else that the features depend on: the network's hash, the way of resizing. parts: a folder that extract
    may keep unfinished work in; it is removed when the features are kept. Several processes extract a share of the images
    each, and all get the features of all.
    A damaged file of the cache is said and made again. Raises UserError where the cache cannot be written.
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
    if parts.is_dir():
        shutil.rmtree(parts)
    return features


def content_file(images: np.ndarray, words: str, ending: str = "") -> Path:
    """Where the project's cache keeps what follows from these images and words."""
    return cache_dir() / "features" / f"{_content_key(images, words)}{ending}"


def resize(batch: torch.Tensor, size: int) -> torch.Tensor:
    """Pixels (B, 3, H, W) in 0..255 resized to size x size by Pillow's bicubic filter in floating point, clipped, not rounded.

    A resize is linear and separable, so a batch is resized by two matrix products with Pillow's own coefficients: the
    same values up to float32 rounding, on any device, without a loop over images.
    """
    rows, columns = (_bicubic_matrix(length, size).to(batch.device) for length in batch.shape[2:])
    return (rows @ batch @ columns.T).clamp(0, 255)


def comparability_warnings(generated: np.ndarray, reference: np.ndarray) -> list[str]:
    """What makes scores of these two sets of samples, such as images (N, 3, H, W), incomparable with the challenge's."""
    found = []
    if len(generated) != len(reference):
        found.append(
            f"{len(generated)} generated and {len(reference)} reference images; FID depends on the number of images, so "
            "compare it only with scores of the same two numbers"
        )
    if generated.shape[1:] != reference.shape[1:] and generated.ndim == 4:
        (height, width), (rows, columns) = generated.shape[2:], reference.shape[2:]
        found.append(f"generated images are {width}x{height}, reference images {columns}x{rows}; both are resized to 299x299")
    return found


# ------------------------------------------------------------------------------------------------------------ parts


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


def _read_image(file: Path, remarks: Remarks | None = None) -> np.ndarray:
    """One image as uint8 (H, W, 3)."""
    return np.asarray(read_picture(file, str(file), remarks))


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _prepare_clean(batch: torch.Tensor) -> torch.Tensor:
    """clean-fid: resized by Pillow's bicubic filter, then scaled to about -1..1."""
    resized = (resize(batch, INPUT_SIZE) - 128) / 128
    return resized.contiguous(memory_format=torch.channels_last)


def _prepare_pytorch(batch: torch.Tensor) -> torch.Tensor:
    """pytorch-fid: pixels in 0..1, bilinear resize by torch, then scaled to -1..1."""
    resized = 2 * F.interpolate(batch / 255, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False) - 1
    return resized.contiguous(memory_format=torch.channels_last)


@lru_cache
def _bicubic_matrix(size: int, target: int) -> torch.Tensor:
    """Pillow's bicubic resize of a line of `size` pixels as a matrix (target, size): its answers to unit vectors."""
    units = Image.fromarray(np.eye(size, dtype=np.float32))
    return torch.from_numpy(np.array(units.resize((target, size), Image.Resampling.BICUBIC))).T


def _content_key(images: np.ndarray, words: str) -> str:
    digest = hashlib.sha256(f"{images.shape} {words}\n".encode())
    digest.update(np.ascontiguousarray(images))
    return digest.hexdigest()


def _part_name(first: int) -> str:
    """The file of the features of image number `first` (from 0) and those after it."""
    return f"{first:08d}.npy"


def _read_features(file: Path, count: int) -> np.ndarray | None:
    """The features (count, D) in a file of the cache; None where there is none, or it is damaged, which is said."""
    if not file.is_file():
        return None
    try:
        features = np.load(file)
        if features.ndim != 2 or len(features) != count or features.dtype != np.float32 or not np.isfinite(features).all():
            raise ValueError(f"holds {features.dtype} {features.shape}, or values that are not finite")
    except (OSError, EOFError, ValueError) as error:
        print(f"computing the cached features {file} again: {error}")
        return None
    return features


def _write_features(features: np.ndarray, file: Path) -> None:
    with write_whole(file) as partial, partial.open("wb") as stream:
        np.save(stream, features)
