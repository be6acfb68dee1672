"""CLIP, with a stand-in for the package open_clip, which is large and downloads its weights."""

import sys
import types

import numpy as np
import pytest
import torch

from src.common.cli import UserError
from src.evaluation.clip import Clip, clip_scores
from tests.evaluation.conftest import make_images


class Model(torch.nn.Module):
    """Embeds an image as its mean colour times a weight, a text as the three tokens it is given."""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))
        self.seen = []

    def encode_image(self, x):
        self.seen.append(len(x))
        return self.weight * x.mean(dim=(2, 3))

    def encode_text(self, tokens):
        return tokens.float()


@pytest.fixture
def open_clip(monkeypatch):
    """The functions of open_clip that are called, with their signatures."""

    def create_model_and_transforms(model_name, pretrained=None):
        if model_name != "tiny":
            raise RuntimeError(f"Model config for {model_name} not found\nAvailable: tiny")
        train = None
        return Model({"good": 2.0, "other": 3.0}[pretrained]), train, as_tensor

    def as_tensor(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

    package = types.ModuleType("open_clip")
    package.__version__ = "1.2"
    package.create_model_and_transforms = create_model_and_transforms
    package.get_tokenizer = lambda model_name: lambda texts: torch.tensor([[len(text), 0, 0] for text in texts])
    monkeypatch.setitem(sys.modules, "open_clip", package)


def test_features_and_text(open_clip):
    images = make_images(1, 11)
    clip = Clip("tiny:good")
    features = clip.features(images, batch_size=64)
    np.testing.assert_allclose(features, 2 * images.mean(axis=(2, 3)) / 255, rtol=1e-5)
    assert features.dtype == np.float32
    assert clip.model.seen == [8, 3]
    assert clip.text("a face").tolist() == [6, 0, 0]

    again = Clip("tiny:good")
    np.testing.assert_array_equal(again.features(images), features)
    assert again.sha256 == clip.sha256 and again.model.seen == [], "the cache has them"
    assert Clip("tiny:other").sha256 != clip.sha256


@pytest.mark.parametrize(
    ("given", "words"),
    [("tiny", "expected MODEL:WEIGHTS"), ("huge:good", "Model config for huge not found"), ("tiny:absent", "absent")],
)
def test_mistakes(open_clip, given, words):
    with pytest.raises(UserError, match=words) as error:
        Clip(given)
    assert "\n" not in str(error.value)


def test_absent_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match="pip install open_clip_torch"):
        Clip("tiny:good")


def test_scores():
    images = np.array([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [1.0, 1.0]], dtype=np.float32)
    assert clip_scores(images, np.array([5.0, 0.0])) == pytest.approx([100, 0, 0, 100 / np.sqrt(2)])
    with pytest.raises(ValueError, match=r"got \(4, 2\) and \(3,\)"):
        clip_scores(images, np.zeros(3))
