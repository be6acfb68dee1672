"""Pairs of a noise and the image that a trained model makes of it, as they are stored: what rectified flow is repeated on.

A folder of pairs holds pairs.json, which says who made them and how, and files pairs_00000.npz ... of SHARD pairs each: images
in float16, the seeds of their noises (draw_noise makes the noise of its seed again) and the distances from noise to image.
`python -m src.datasets.pairs` makes them.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.common.cli import UserError
from src.common.files import load_json

SHARD = 1024  # pairs a file: 25 MB of 64x64 images
METADATA = "pairs.json"
IDENTITY = (
    "teacher_sha256",
    "teacher_options",
    "steps",
    "seed",
    "image_shape",
    "precision",
)  # that all pairs of a folder share


def load_pairs(folder: str | Path, drop_longest: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The images, float16 (N, 3, H, W), about in [-1, 1], and the seeds of their noises, int64 (N,), as load_labelled_pairs."""
    return load_labelled_pairs(folder, drop_longest)[:2]


def load_labelled_pairs(
    folder: str | Path, drop_longest: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """What load_pairs gives, their labels, int64 (N,), and the names of the classes 1, 2 ...

    A teacher with classes made pair i for class number i mod C; of one without, there are no labels and no names.

    drop_longest: the share of all pairs that is left out, those of the largest L2 distance from noise to image.

    Raises UserError where there are no pairs, or fewer than were asked for, or a file is damaged.
    """
    folder = Path(folder)
    if not 0 <= drop_longest < 1:
        raise UserError(f"--drop_longest {drop_longest:g}: expected a share from 0 to below 1")
    metadata = read_metadata(folder)
    count, done = metadata["count"], 0
    images = np.empty((count, *metadata["image_shape"]), np.float16)
    arrays = {"images": images, "seeds": np.empty(count, np.int64), "distances": np.empty(count, np.float32)}
    for path, numbers in shards(folder, count):
        if path.is_file():
            shard = read_shard(path, metadata)
            held = min(len(numbers), len(shard["seeds"]))
            for name, array in arrays.items():
                array[numbers.start : numbers.start + held] = shard[name][:held]
            done += held
    if done < count:
        raise UserError(
            f"{folder} holds {done} of its {count} pairs: make the others with the command that began them, or give it a "
            "smaller --count"
        )
    classes = tuple(metadata["teacher_options"].get("classes", ()))
    labels = np.arange(count) % len(classes) + 1 if classes else None
    if drop_longest == 0:
        return images, arrays["seeds"], labels, classes
    by_length = np.argsort(arrays["distances"], kind="stable")
    kept = np.sort(by_length[: max(count - round(drop_longest * count), 1)])
    return images[kept], arrays["seeds"][kept], labels[kept] if classes else None, classes


def describe_pairs(folder: str | Path, drop_longest: float = 0.0) -> str:
    """One line that is the same for the same pairs: their number, shape, teacher, steps, seed, precision, what is left out."""
    metadata = read_metadata(Path(folder))
    shape, teacher = "x".join(map(str, metadata["image_shape"])), metadata["teacher_sha256"][:12]
    dropped = f", the longest {drop_longest:g} left out" if drop_longest else ""
    made = f"{metadata['steps']} steps, seed {metadata['seed']}, {metadata['precision']}"
    return f"{metadata['count']} pairs {shape} of teacher {teacher}, {made}{dropped}"


def read_metadata(folder: Path) -> dict[str, Any]:
    """The content of pairs.json. Raises UserError where there is none or it is of something else."""
    if not (folder / METADATA).is_file():
        raise UserError(f"no pairs at {folder}: make them with python -m src.datasets.pairs")
    metadata = load_json(folder / METADATA)
    if not isinstance(metadata, dict) or not {"count", *IDENTITY} <= metadata.keys():
        raise UserError(f"{folder / METADATA} is not of pairs: it lacks one of count, {', '.join(IDENTITY)}")
    return metadata


def shards(folder: Path, count: int) -> list[tuple[Path, range]]:
    """The files of the first `count` pairs, and the numbers of the pairs in each of them."""
    starts = range(0, count, SHARD)
    return [(folder / f"pairs_{start // SHARD:05d}.npz", range(start, min(start + SHARD, count))) for start in starts]


def read_shard(path: Path, metadata: dict[str, Any], names: Sequence[str] = ("images", "seeds", "distances")) -> dict[str, Any]:
    """These arrays of a file. Raises UserError where it is damaged or of other pairs."""
    try:
        with np.load(path) as file:
            shard = {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: damaged ({reason}); delete it, and the same command makes it again") from error
    if "images" in shard and list(shard["images"].shape[1:]) != list(metadata["image_shape"]):
        raise UserError(f"{path} holds images of shape {shard['images'].shape[1:]}, {METADATA} says {metadata['image_shape']}")
    return shard
