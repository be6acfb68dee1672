"""The memory layout of the weights: measured once, remembered, and kept by a run that is continued."""

import json

import pytest
import torch

from src.training import memory_layout as layout
from src.training.config import TrainingConfig
from src.training.loop import Trainer
from tests.helpers import SHAPE, TINY, random_images, tiny_model
from tests.methods.battery import run_loop

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_layout_is_timed():
    """Here it is."""


@pytest.fixture
def timed(tmp_path, monkeypatch) -> dict:
    """Says which layout is fast, and counts the timed passes; with a cache of its own."""
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))
    told = {"fast": "channels_last", "passes": 0}

    def seconds(network, image_shape, count, dtype):
        told["passes"] += 1
        return 1.0 if layout_of(network) == told["fast"] else 2.0

    monkeypatch.setattr(layout, "_seconds", seconds)
    return told


def layout_of(network) -> str:
    contiguous = next(value for value in network.parameters() if value.ndim == 4 and value.shape[2] > 1).is_contiguous()
    return "contiguous" if contiguous else "channels_last"


@pytest.mark.parametrize("fast", ["contiguous", "channels_last"])
def test_the_faster_one_is_measured_once_for_each_batch_size(timed, fast):
    timed["fast"], network = fast, tiny_model().network
    assert layout.faster_layout(network, SHAPE, 8, torch.float32) == fast
    passes, timed["fast"] = timed["passes"], None
    assert passes > 2
    assert layout.faster_layout(network, SHAPE, 8, torch.float32) == fast and timed["passes"] == passes, "remembered"
    layout.faster_layout(network, SHAPE, 4, torch.float32)
    assert timed["passes"] > passes, "another batch is measured anew"


def test_both_are_really_timed(tmp_path, monkeypatch):
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path))
    network = tiny_model().network
    assert layout.faster_layout(network, SHAPE, 8, torch.float32) in layout.LAYOUTS
    assert all(parameter.grad is None for parameter in network.parameters())
    kept = json.loads(next(tmp_path.glob("layout-*.json")).read_text())
    assert set(kept["seconds"]) == set(layout.LAYOUTS) and all(0 < value < 60 for value in kept["seconds"].values())


def test_a_run_takes_the_faster_one_and_keeps_it(tmp_path, timed):
    run_loop(tiny_model(), tmp_path / "run", steps=2, memory_format="auto")
    told = json.loads((tmp_path / "run" / "training_config.json").read_text())
    assert told["layout"] == "channels_last" and told["memory_format"] == "auto"

    timed["fast"] = "contiguous"
    for path in (tmp_path / "cache").glob("layout-*.json"):
        path.unlink()
    model, settings = tiny_model(), {"batch_size": 8, "lr": 1e-2, "lr_warmup": 0, "log_interval": 2}
    config = TrainingConfig(**settings, num_iterations=3)
    Trainer(model, random_images(32), config, {"method": "custom", **TINY}, tmp_path / "run", CPU).run(resume=True)
    assert layout_of(model.network) == "channels_last"
