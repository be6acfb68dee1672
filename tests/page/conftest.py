"""A folder of shipped models and one of runs, tiny, for all tests of the page."""

from pathlib import Path

import pytest
from PIL import Image

import train
from src.challenges.mnist import DigitsChallenge
from src.challenges.toy2d import PointChallenge
from src.common.checkpoints import save_model
from src.common.devices import AUTO_PRECISION
from src.runs.folder import Run
from tests.helpers import TINY, TINY_FLAGS, add_measured, call, random_images, tiny_model

DIGITS = [str(digit) for digit in range(10)]
FLAGS = ["--num_iterations", 4, "--batch_size", 8, "--log_interval", 1, "--save_interval", 4]


@pytest.fixture(scope="session")
def shipped(tmp_path_factory) -> Path:
    """checkpoints/: a model with the digits' classes that can be guided, and one without."""
    folder = tmp_path_factory.mktemp("shipped") / "checkpoints"
    for name, method, class_options in (("classes", "rectified_flow", {"classes": DIGITS}), ("plain", "meanflow", {})):
        place = folder / name
        place.mkdir(parents=True)
        options = {"challenge": "mnist", **class_options}
        save_model(tiny_model(method, **options), place / "best_model.pt", {"method": method, **TINY, **options})
    return folder


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> Path:
    """results/: a run of images of 28x28 that were measured, and one of points."""
    place = tmp_path_factory.mktemp("results")
    images = place / "digits"
    images.mkdir()
    for number, pixels in enumerate(random_images(24, shape=(28, 28))):
        Image.fromarray(pixels).save(images / f"{number}.png")
    folder = place / "results"
    of_images = [*TINY_FLAGS, "--challenge", "mnist", "--data_root", images, "--run_name", "images"]
    of_points = ["--challenge", "toy2d", "--data_root", "moons", "--method", "meanflow", "--hidden", 16, "--run_name", "points"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHALLENGE_CACHE", str(place / "cache"))
        patch.setattr(DigitsChallenge, "preview_samples", 2)
        patch.setattr(PointChallenge, "preview_samples", 16)
        for flags in (of_images, of_points):
            assert call(train, patch, *flags, *FLAGS, "--save_dir", folder, "--device", "cpu") == 0
    measured = {"step": 4, "images_seen": 32, "num_generated": 12, "reference": "100", "seed": 42}
    for nfe, score in ((1, 300.0), (4, 250.5)):
        add_measured(Run(folder / "images"), {**measured, "nfe": nfe, "fid_pytorch": score})
    return folder


@pytest.fixture(scope="session", autouse=True)
def float32():
    """Samples of different batches agree within rounding, whatever auto means on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(AUTO_PRECISION, "fp32")
        yield
