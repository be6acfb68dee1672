"""The real weights, images made by rule, a feature network of no weight, and a cache of its own for every test."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.evaluation import features, weights
from src.evaluation.feature_networks import FeatureNetwork
from src.evaluation.features import extract_features, read_images

COUNT = 12  # images in each of the two sets that the packages measure too


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    """The test's own cache folder; torch hub's too, so that nothing found on the machine decides a test."""
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def inception(package_file):
    """The network with the real weights, loaded once."""
    return weights.load_inception(package_file)


@pytest.fixture(scope="session")
def published_state(package_file) -> dict[str, torch.Tensor]:
    """The real weights as pytorch-fid publishes them: all of its network's names, with the classifier."""
    state = weights.read_weights(package_file)
    counters = {
        name.replace("bn.bias", "bn.num_batches_tracked"): torch.tensor(0) for name in state if name.endswith("bn.bias")
    }
    return {**state, **counters, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}


class Colours(FeatureNetwork):
    """Features by hand: the mean colours, again and again. `seen`: the sizes of the batches; it bears so many images."""

    modes = ("clean", "pytorch")

    def __init__(self, sha256: str = "1" * 64, columns: int = 2048):
        super().__init__()
        self.register_buffer("device", torch.zeros(()))
        self.sha256, self.columns, self.seen, self.bears = sha256, columns, [], 10**9

    def features(self, pixels, mode):
        if sum(self.seen) + len(pixels) > self.bears:
            raise KeyboardInterrupt
        self.seen.append(len(pixels))
        return pixels.mean(dim=(2, 3)).repeat(1, self.columns // 3 + 1)[:, : self.columns]


@pytest.fixture
def counted(monkeypatch) -> Colours:
    """A feature network whose features are kept ten images a part."""
    monkeypatch.setattr(features, "PART", 10)
    return Colours()


def make_images(seed: int, count: int = COUNT, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """uint8 (count, 3, H, W): smooth colours, noise and hard edges, so that clipping and rounding matter."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (3 + seed, 3 + seed, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC), dtype=np.float64)
        noisy = (smooth + rng.normal(0, 20, smooth.shape)).clip(0, 255).astype(np.uint8)
        noisy[: size[0] // 3, : size[1] // 2] = rng.choice([0, 255], 3)
        images.append(noisy.transpose(2, 0, 1))
    return np.stack(images)


def write_images(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i:04d}.png")
    return folder


@pytest.fixture(scope="session")
def image_sets() -> tuple[np.ndarray, np.ndarray]:
    return make_images(seed=1), make_images(seed=2)


@pytest.fixture(scope="session")
def image_folders(tmp_path_factory, image_sets) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("images")
    return write_images(base / "a", image_sets[0]), write_images(base / "b", image_sets[1])


@pytest.fixture(scope="session")
def feature_sets(inception, image_folders) -> tuple[np.ndarray, np.ndarray]:
    """The clean features of both folders by the real network, (24, 2048) each."""
    return tuple(extract_features(read_images(folder), inception) for folder in image_folders)
