"""The FID of record: training images of the real data against the real validation images."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from src.challenges import get_challenge
from tests.conftest import PROJECT_ROOT


def read_split(root, split: str, count: int) -> np.ndarray:
    """The first `count` images of a split, uint8 (count, 3, 64, 64)."""
    ids = (PROJECT_ROOT / "data" / f"{split}_split.txt").read_text().split()[:count]
    with zipfile.ZipFile(root) as archive:
        images = [Image.open(io.BytesIO(archive.read(f"cropped/{name}.webp"))).convert("RGB") for name in ids]
    return np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2)


@pytest.mark.slow
def test_fid_of_training_images_is_the_published_one(simpsons_root, inception):
    """FID clean-fid, 1000 vs 1000, as clean-fid 0.1.35 measures it."""
    train, val = (read_split(simpsons_root, split, 1000) for split in ("train", "val"))
    scores = get_challenge().measure(train, val, inception, metrics=["fid_clean"])
    assert scores["fid_clean"] == pytest.approx(20.375, abs=0.01)
