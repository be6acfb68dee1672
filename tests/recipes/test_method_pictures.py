"""The pictures of the methods: their recipe in miniature, and that docs/ has all of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from recipes import method_pictures, toy2d
from src.challenges import toy2d as challenge_file
from src.common.files import PROJECT_ROOT
from src.common.noise import image_seeds
from src.methods import get_method
from tests import shipped
from tests.helpers import call

METHODS = ("rectified_flow", "cmt")  # the path of unit noise, and noise levels, with a teacher


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Runs the recipe on few points; its exit code."""
    monkeypatch.setattr(challenge_file, "SPLITS", {"train": (512, 0), "val": (64, 1)})
    flags = ["--methods", *METHODS, "--iterations", 10, "--out", tmp_path / "out", "--pictures", tmp_path / "pictures"]
    threads = torch.get_num_threads()
    yield lambda: call(method_pictures, monkeypatch, *flags)
    torch.set_num_threads(threads)


def test_pictures_are_drawn_and_nothing_is_trained_twice(recipe, tmp_path, monkeypatch):
    assert recipe() == 0
    pictures = {path.stem: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    assert set(pictures) == set(METHODS) and pictures["cmt"] != pictures["rectified_flow"]
    trained = {path.name.partition("-")[0] for path in (tmp_path / "out" / "trained").iterdir()}
    assert trained == {"edm", *METHODS}

    noises = []
    for method in METHODS:
        (file,) = (tmp_path / "out" / "ways").glob(f"{method}-*")
        with np.load(file) as ways:
            for nfe in method_pictures.NFE:
                assert ways[str(nfe)].shape == (nfe + 1, method_pictures.COUNT, 2)
                noises.append(ways[str(nfe)][0])
    for noise in noises:
        np.testing.assert_allclose(noise, noises[0], rtol=1e-3)
    assert abs(noises[0].std() - 1) < 0.1

    monkeypatch.setattr(toy2d, "train", None)  # whoever trains fails
    (tmp_path / "pictures" / "cmt.png").unlink()
    assert recipe() == 0
    assert (tmp_path / "pictures" / "cmt.png").read_bytes() == pictures["cmt"]


def test_a_way_ends_at_the_samples():
    """Whatever the scale of the states between."""
    for method in METHODS:
        model = get_method(method).from_options(toy2d.CHALLENGE.build_network(), **toy2d.CHALLENGE.method_options[method])
        for parameter in model.network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        seeds = image_seeds(method_pictures.SEED, 0, 5)
        samples = model.sample((5, 2), 2, seeds=seeds).numpy()
        np.testing.assert_array_equal(method_pictures.way(model, 2, 5)[-1], samples)


@pytest.mark.parametrize("method", [name for name in shipped.METHODS if name != "custom"])
def test_the_documents_show_the_method(method):
    path = PROJECT_ROOT / "docs" / "images" / "methods" / f"{method}.png"
    with Image.open(path) as picture:
        assert picture.width > 2 * picture.height
    assert path.stat().st_size < 60_000
    _, section = (PROJECT_ROOT / "docs" / "methods.md").read_text().split(f"\n## {method}\n")
    assert f"(images/methods/{method}.png)" in section.partition("\n## ")[0]
