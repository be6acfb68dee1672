"""A tiny class-conditional run of digits-like images, untrained but for two steps, that every test of a command starts from."""

import numpy as np
import pytest
from PIL import Image

import train
from src.common.cli import run_script

NET = ["--ch", "8", "--ch_mult", "1", "2", "--attn", "1", "--num_res_blocks", "1", "--device", "cpu"]
CLASSES = ("disc", "square")


def draw(name: str, rng: np.random.Generator) -> np.ndarray:
    """A bright shape of this class on a dark ground, uint8 (16, 16, 3)."""
    rows, columns = np.mgrid[:16, :16] - rng.integers(6, 10, (2, 1, 1))
    inside = rows**2 + columns**2 < 10 if name == "disc" else np.maximum(abs(rows), abs(columns)) < 6
    return np.repeat((inside * 220 + rng.integers(0, 30))[..., None], 3, axis=2).astype(np.uint8)


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory):
    """The folder of a labelled data set: train and val, in each a folder of every class."""
    root, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for split, count in (("train", 30), ("val", 10)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw(name, rng)).save(root / split / name / f"{number:02d}.png")
    return root


@pytest.fixture(scope="session")
def run(shapes_root, tmp_path_factory):
    """The folder of a run of two steps."""
    place = tmp_path_factory.mktemp("run")
    argv = ["train.py", "--challenge", "labelled", "--data_root", str(shapes_root), "--class_conditional", *NET]
    argv += ["--num_iterations", "2", "--batch_size", "4", "--save_dir", str(place), "--run_name", "r", "--method", "ddpm"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", argv)
        patch.setenv("CHALLENGE_CACHE", str(place / "cache"))
        run_script(train.main)
    return place / "r"
