"""Rectified flow against closed forms: a Gaussian N(m, s^2), where the velocity and the flow map are known."""

import pytest
import torch

from src.common.noise import draw_noise
from src.methods import get_method
from src.methods.shared.straight_path import LinearPathScheduler
from src.utils import expand_t
from tests.helpers import SHAPE, tiny_model

MEAN, STD = 0.3, 0.4


def exact_velocity(x, t):
    """E[data - noise | xt = x] for data N(MEAN, STD^2) and xt = t data + (1 - t) noise."""
    t = expand_t(t, x)
    variance = t**2 * STD**2 + (1 - t) ** 2
    return MEAN + (t * STD**2 - (1 - t)) / variance * (x - t * MEAN)


class ExactNetwork(torch.nn.Module):
    use_additional_condition = False

    def __init__(self, time_scale):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(time_scale))

    def forward(self, x, timestep):
        return exact_velocity(x, timestep / self.scale)


def exact_model(**options):
    cls = get_method("rectified_flow")
    return cls.from_options(ExactNetwork(options.get("time_scale", 1000.0)), **options).double()


def test_euler_converges_to_the_exact_map_at_first_order():
    model = exact_model()
    noise = draw_noise((4, *SHAPE), torch.device("cpu"), [1, 2, 3, 4])
    exact = MEAN + STD * noise  # the flow of a Gaussian is affine
    errors = []
    for steps in (8, 16, 32, 64):
        errors.append((model.sample((4, *SHAPE), steps, seeds=[1, 2, 3, 4]) - exact).abs().mean().item())
    slopes = [errors[i] / errors[i + 1] for i in range(3)]
    assert errors[-1] < 0.01
    assert all(1.8 < slope < 2.2 for slope in slopes), slopes


def test_the_exact_velocity_has_the_least_loss():
    model = exact_model(time_scale=7.0)
    torch.manual_seed(0)
    data, noise = MEAN + STD * torch.randn(64, *SHAPE).double(), torch.randn(64, *SHAPE).double()
    losses = {}
    for shift in (-0.3, 0.0, 0.3):
        torch.manual_seed(1)
        predict = model.predict
        model.predict = lambda xt, t, shift=shift, predict=predict: predict(xt, t) + shift
        losses[shift] = model.compute_loss(data, noise).item()
        model.predict = predict
    assert losses[0.0] < losses[-0.3] - 0.05 and losses[0.0] < losses[0.3] - 0.05


def test_path_and_velocity():
    scheduler = tiny_model("rectified_flow").scheduler
    data, noise = torch.full((2, 1, 1, 1), 3.0), torch.full((2, 1, 1, 1), -1.0)
    t = torch.tensor([0.25, 0.5])
    torch.testing.assert_close(scheduler.forward_process(data, noise, t).flatten(), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(scheduler.get_target(data, noise, t).flatten(), torch.tensor([4.0, 4.0]))


def test_logit_normal_times():
    torch.manual_seed(0)
    t = LinearPathScheduler(time_distribution="logit_normal", logit_mean=0.5, logit_std=0.8).sample_timesteps(20000, "cpu")
    logits = torch.logit(t)
    assert abs(logits.mean() - 0.5) < 0.03 and abs(logits.std() - 0.8) < 0.03
    assert abs(LinearPathScheduler().sample_timesteps(20000, "cpu").std() - 12**-0.5) < 0.01
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        exact_model().time_grid(0)


def test_noise_is_standard_normal_and_follows_its_seed():
    noise = draw_noise((64, *SHAPE), torch.device("cpu"), range(64))
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    again = draw_noise((1, *SHAPE), torch.device("cpu"), [5])
    assert torch.equal(again[0], noise[5])
    assert not torch.equal(draw_noise((1, *SHAPE), torch.device("cpu"), [5], draw=1), again)
    with pytest.raises(ValueError, match="expected 2 seeds"):
        draw_noise((2, *SHAPE), torch.device("cpu"), [1])
