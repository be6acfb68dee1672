"""Toon faces: 64x64 cartoon heads drawn by code, with the course's network. For demos and tests: no download, no account."""

from pathlib import Path

import numpy as np

from src.challenges._base import register
from src.challenges._images import ImageChallenge

SPLITS = {"train": (4000, 1), "val": (300, 2)}  # number of images, seed


def load_toons(split: str, root: str | Path) -> tuple[np.ndarray, None]:
    """All toon faces of a split: a read-only memory-mapped array (N, 3, 64, 64), uint8. They are drawn: root is not read."""
    from src.datasets import toon
    from src.datasets.images import cached_array

    count, seed = SPLITS[split]
    return cached_array(["toon", toon.VERSION, count, seed], lambda: toon.toon_faces(count, seed)), None


TOON = register(
    ImageChallenge(
        name="toon",
        about="toon faces at 64x64, drawn by code",
        shape=(3, 64, 64),
        load=load_toons,
        nfe=(1, 2, 4),
        num_samples=1000,
    )
)
