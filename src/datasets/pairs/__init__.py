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
ABOUT = "pairs.json"
IDENTITY = (
    "teacher_sha256",
    "teacher_options",
    "steps",
    "seed",
    "image_shape",
    "precision",
)  # what a folder's pairs have in common


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
        raise UserError(f"drop_longest {drop_longest:g}: expected a share from 0 to below 1")
    about = read_about(folder)
    count = about["count"]
    images = np.empty((count, *about["image_shape"]), np.float16)
    seeds, distances = np.empty(count, np.int64), np.empty(count, np.float32)
    done = 0
    for path, wanted in shards(folder, count):
        if path.is_file():
            shard = read_shard(path, about)
            rows = slice(wanted.start, wanted.start + min(len(wanted), len(shard["seeds"])))
            here = slice(0, rows.stop - rows.start)
            images[rows], seeds[rows], distances[rows] = (shard[name][here] for name in ("images", "seeds", "distances"))
            done += here.stop
    if done < count:
        raise UserError(
            f"{folder} holds {done} of its {count} pairs: make the others with the command that began them, or give it a "
            "smaller --count"
        )
    classes = tuple(about["teacher_options"].get("classes", ()))
    labels = np.arange(count) % len(classes) + 1 if classes else None
    if drop_longest == 0:
        return images, seeds, labels, classes
    kept = np.sort(np.argsort(distances, kind="stable")[: max(count - round(drop_longest * count), 1)])
    return images[kept], seeds[kept], labels[kept] if classes else None, classes


def describe_pairs(folder: str | Path, drop_longest: float = 0.0) -> str:
    """One line that is the same for the same pairs: their number, shape, teacher, steps, seed, precision, what is left out."""
    about = read_about(Path(folder))
    shape, teacher = "x".join(map(str, about["image_shape"])), about["teacher_sha256"][:12]
    dropped = f", the longest {drop_longest:g} left out" if drop_longest else ""
    made = f"{about['steps']} steps, seed {about['seed']}, {about['precision']}"
    return f"{about['count']} pairs {shape} of teacher {teacher}, {made}{dropped}"


def read_about(folder: Path) -> dict[str, Any]:
    """What pairs.json says. Raises UserError where there is none or it is of something else."""
    if not (folder / ABOUT).is_file():
        raise UserError(f"no pairs at {folder}: make them with python -m src.datasets.pairs")
    about = load_json(folder / ABOUT)
    if not isinstance(about, dict) or not {"count", *IDENTITY} <= about.keys():
        raise UserError(f"{folder / ABOUT} is not of pairs: it lacks one of count, {', '.join(IDENTITY)}")
    return about


def shards(folder: Path, count: int) -> list[tuple[Path, range]]:
    """The files of the first `count` pairs, and which pairs each of them holds."""
    starts = range(0, count, SHARD)
    return [(folder / f"pairs_{start // SHARD:05d}.npz", range(start, min(start + SHARD, count))) for start in starts]


def read_shard(path: Path, about: dict[str, Any], names: Sequence[str] = ("images", "seeds", "distances")) -> dict[str, Any]:
    """These arrays of a file. Raises UserError where it is damaged or of other pairs."""
    try:
        with np.load(path) as file:
            shard = {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: damaged ({str(error) or type(error).__name__}); delete it, and the same command makes it again"
        ) from error
    if "images" in shard and list(shard["images"].shape[1:]) != list(about["image_shape"]):
        raise UserError(f"{path} holds images of shape {shard['images'].shape[1:]}, {ABOUT} says {about['image_shape']}")
    return shard
