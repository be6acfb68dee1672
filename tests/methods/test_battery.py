"""The battery finds planted faults; where a check could fail for another reason, the sound model passes it first."""

from contextlib import nullcontext

import pytest
import torch

from src.methods import METHODS, register
from src.methods.rectified_flow import RectifiedFlow
from src.training.averages import EMA
from src.training.step import TrainingStep
from src.utils import expand_t
from tests.helpers import tiny_model
from tests.methods import battery


@pytest.fixture
def planted():
    """Register classes for one test."""
    yield lambda cls: register("planted")(cls) and (lambda: tiny_model("planted"))
    METHODS.remove("planted")


def fails(check, *args) -> None:
    with pytest.raises(AssertionError):
        check(*args)


def test_noise_equal_to_the_data(monkeypatch, tmp_path):
    make = lambda: tiny_model("rectified_flow")  # noqa: E731
    battery.check_noise_of_the_loop(make, tmp_path / "sound")
    batch = TrainingStep._batch
    monkeypatch.setattr(
        TrainingStep, "_batch", lambda *args: [(rows, data, data.clone(), {}) for rows, data, *_ in batch(*args)]
    )
    fails(battery.check_noise_of_the_loop, make, tmp_path / "faulty")


def test_last_step_that_ignores_the_network(planted):
    class Faulty(RectifiedFlow):
        class Scheduler(RectifiedFlow.Scheduler):
            def reverse_process_step(self, xt, pred, t, t_next):
                step = super().reverse_process_step(xt, pred, t, t_next)
                return torch.where(expand_t(t_next, xt) == self.t_data, xt, step)

    battery.check_number_of_calls(lambda: tiny_model("rectified_flow"))
    fails(battery.check_number_of_calls, planted(Faulty))


def test_one_call_too_many(planted):
    class Faulty(RectifiedFlow):
        def sample(self, shape, num_inference_timesteps=20, **kwargs):
            return super().sample(shape, num_inference_timesteps + 1, **kwargs)

    fails(battery.check_number_of_calls, planted(Faulty))


class Conditional(RectifiedFlow):
    """Passes 1 - t as the condition, soundly."""

    needs_condition = True

    def predict(self, xt, t, **kwargs):
        return self.network(xt, t * self.config.time_scale, self.condition(t))

    def condition(self, t):
        return 1 - t


def test_condition_that_is_dropped_by_the_method(planted):
    class Faulty(Conditional):
        def condition(self, t):
            return torch.zeros_like(t)

    battery.check_condition(planted(Conditional))
    METHODS.remove("planted")
    fails(battery.check_condition, planted(Faulty))


def test_condition_that_is_dropped_by_the_network(planted):
    make = planted(Conditional)

    def deaf():
        model = make()
        model.network.condition_fusion = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.SiLU(), torch.nn.Linear(32, 32))
        torch.nn.init.zeros_(model.network.condition_fusion[0].weight)
        return model

    battery.check_condition(make)
    fails(battery.check_condition, deaf)


def test_average_not_used_in_the_checkpoint(monkeypatch, tmp_path):
    make = lambda: tiny_model("rectified_flow")  # noqa: E731
    battery.check_checkpoint_is_average(make, tmp_path / "sound")
    monkeypatch.setattr(EMA, "applied", lambda self, half_life: nullcontext())
    fails(battery.check_checkpoint_is_average, make, tmp_path / "faulty")


def test_noise_that_depends_on_the_batch(planted):
    class Faulty(RectifiedFlow):
        def sample(self, shape, num_inference_timesteps=20, seeds=None, **kwargs):
            if seeds is not None:
                torch.manual_seed(seeds[0])
            return super().sample(shape, num_inference_timesteps, **kwargs)

    battery.check_seeds(lambda: tiny_model("rectified_flow"))
    fails(battery.check_seeds, planted(Faulty))


def test_train_only_module_in_the_checkpoint(planted, tmp_path):
    from custom_model import create_custom_model

    class Faulty(RectifiedFlow):
        def _setup(self, **kwargs):
            super()._setup(**kwargs)
            self.teacher = torch.nn.Linear(2, 2)
            self.train_only = {"teacher": self.teacher}

    make = planted(Faulty)
    config = {"method": "planted", "ch": 8, "ch_mult": [1, 2], "attn": [1], "num_res_blocks": 1}
    fails(battery.check_save_and_load, make, create_custom_model, config, tmp_path)


def test_a_keyword_that_is_dropped(planted):
    class Faulty(RectifiedFlow):
        def sample(self, shape, num_inference_timesteps=20, *, seeds=None, **kwargs):
            return super().sample(shape, num_inference_timesteps, seeds=seeds)

    battery.check_unknown_keywords(lambda: tiny_model("rectified_flow"))
    fails(battery.check_unknown_keywords, planted(Faulty))
