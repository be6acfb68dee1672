"""recipes/ship_statistics.py on a few images and a network of no weight."""

import dataclasses

import numpy as np

from recipes import ship_statistics
from src.challenges import CHALLENGES, get_challenge
from src.evaluation import features
from src.evaluation.inception import FEATURES
from src.evaluation.statistics import read_shipped
from tests.evaluation.test_statistics import IMAGES, counted  # noqa: F401 - a fixture
from tests.helpers import call, fails


def test_what_it_writes_is_found(counted, tmp_path, monkeypatch, capsys):  # noqa: F811
    network, _, _ = counted
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))
    changed = dataclasses.replace(get_challenge("mnist"), load=lambda split, root: (IMAGES[:, :1], None))
    monkeypatch.setitem(CHALLENGES._items, "mnist", changed)
    monkeypatch.setattr(type(changed), "load_feature_network", lambda self, device, file=None: network)
    monkeypatch.setattr("src.evaluation.statistics.SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(ship_statistics, "SHIPPED", tmp_path / "shipped")
    assert call(ship_statistics, monkeypatch, "--device", "cpu") == 0
    assert f"{len(IMAGES)} images, " in capsys.readouterr().out
    grey = np.repeat(IMAGES[:, :1], 3, axis=1)
    content = features.content_file(grey, f"pytorch {network.sha256}", "_statistics.npz").stem
    assert read_shipped(content).mu.shape == (FEATURES,)
    assert "its samples are no images" in fails(ship_statistics, monkeypatch, capsys, "--challenge", "toy2d", "--device", "cpu")
