import pytest
import torch

import custom_model
from custom_model import create_custom_model
from src.methods import method_names
from src.methods.rectified_flow import RectifiedFlow
from tests.helpers import SHAPE, TINY, tiny_model


def test_default_is_the_challenges_network():
    with torch.device("meta"):
        model = create_custom_model("meta")
    assert type(model).__name__ == "CustomGenerativeModel" and type(model.scheduler).__name__ == "CustomScheduler"
    assert sum(p.numel() for p in model.parameters()) == 58_753_283
    assert {"custom", "rectified_flow"} <= set(method_names())


def test_custom_starts_as_rectified_flow():
    seeds = [1, 2]
    samples = [tiny_model(name).sample((2, *SHAPE), 4, seeds=seeds) for name in ("custom", "rectified_flow")]
    assert torch.equal(*samples)


def test_options_reach_network_scheduler_and_method():
    model = create_custom_model(**TINY, num_train_timesteps=10, time_distribution="logit_normal", logit_mean=2, time_scale=5)
    assert model.network.head.out_channels == 8 and model.scheduler.num_train_timesteps == 10
    assert model.scheduler.config.logit_mean == 2 and model.config.time_scale == 5
    assert model.scheduler.sample_timesteps(1000, "cpu").mean() > 0.8


def test_unknown_options_name_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown options colour, size .*ch, ch_mult.*num_train_timesteps.*time_scale"):
        create_custom_model(colour=1, size=2)


def test_condition_flag():
    assert create_custom_model(**TINY, use_additional_condition=True).network.use_additional_condition
    assert not create_custom_model(**TINY).network.use_additional_condition
    with pytest.raises(ValueError, match="no use for the additional condition"):
        create_custom_model(method="rectified_flow", **TINY, use_additional_condition=True)


def test_a_student_may_add_an_option(monkeypatch):
    """Editing the Config is all it takes: the option is accepted, kept, and no longer unknown."""
    from dataclasses import dataclass, field

    @dataclass
    class Config(RectifiedFlow.Config):
        weight: float = field(default=2.0, metadata={"help": "w"})

    monkeypatch.setattr(custom_model.CustomGenerativeModel, "Config", Config)
    assert create_custom_model(**TINY).config.weight == 2.0
    assert create_custom_model(**TINY, weight=3.0).config.weight == 3.0
