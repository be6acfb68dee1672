"""Reflow on pairs of a known map: from N(0, 1) to N(MEAN, STD^2) by the straight lines of data = MEAN + STD noise."""

import numpy as np
import pytest
import torch

from src.methods import get_method
from src.methods.shared.straight_path import U_SHAPE, LinearPathScheduler
from src.utils import expand_t
from tests.helpers import SHAPE, tiny_model

MEAN, STD = 0.3, 0.4


class Lines(torch.nn.Module):
    """The velocity along the lines of the map: constant on each. A fault is planted by another sign or slope."""

    use_additional_condition = False

    def __init__(self, sign=1.0, std=STD):
        super().__init__()
        self.scale, self.sign, self.std = torch.nn.Parameter(torch.tensor(1000.0)), sign, std

    def forward(self, x, timestep):
        t = expand_t(timestep / self.scale, x)
        noise = (x - t * MEAN) / (1 - t + t * self.std)  # of the line through x
        return self.sign * (MEAN + (self.std - 1) * noise)


def exact_model(network=None, **options):
    return get_method("reflow").from_options(network or Lines(), **options).double()


def pairs(shape=(64, *SHAPE), seed=0):
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
    return MEAN + STD * noise, noise


def loss(model, data, noise):
    torch.manual_seed(1)
    return model.compute_loss(data, noise).item()


@pytest.mark.parametrize("options", [{}, {"loss": "l2"}, {"time_distribution": "uniform"}])
def test_the_velocity_along_the_lines_has_no_loss(options):
    data, noise = pairs()
    assert loss(exact_model(**options), data, noise) < 1e-6
    assert loss(exact_model(Lines(sign=-1.0), **options), data, noise) > 0.1, "the wrong direction has none too"
    assert loss(exact_model(Lines(std=0.6), **options), data, noise) > 0.01, "another map's lines have none too"
    assert loss(exact_model(**options), data, noise.roll(1, 0)) > 0.1, "noises of other images have none too"


def test_one_euler_step_is_exact():
    model = exact_model()
    seeds = [1, 2, 3, 4]
    noise = model.sample((4, *SHAPE), 1, return_traj=True, seeds=seeds)[0]
    for steps in (1, 2, 4):
        torch.testing.assert_close(model.sample((4, *SHAPE), steps, seeds=seeds), MEAN + STD * noise, atol=1e-5, rtol=0)
    wrong = exact_model(Lines(std=0.6)).sample((4, *SHAPE), 1, seeds=seeds)
    assert (wrong - (MEAN + STD * noise)).abs().mean() > 0.05


def test_it_learns_the_map_from_pairs():
    """A small network on points: after training on pairs, one step takes each noise to its own point."""
    torch.manual_seed(0)

    class Network(torch.nn.Module):
        use_additional_condition = False

        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))

        def forward(self, x, timestep):
            return self.layers(torch.cat([x, timestep[:, None]], dim=1))

    model = get_method("reflow").from_options(Network(), time_scale=1.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(400):
        data, noise = (points.float() for points in pairs((256, 2), seed=step))
        optimizer.zero_grad()
        model.compute_loss(data, noise).backward()
        optimizer.step()
    noise = model.sample((256, 2), 1, return_traj=True, seeds=range(256))[0]
    error = model.sample((256, 2), 1, seeds=range(256)) - (MEAN + STD * noise)
    assert error.square().mean().sqrt() < 0.05


def test_pseudo_huber_is_the_papers_in_units_of_the_velocity():
    """sqrt(|e|^2 + c^2) - c over the root of the number of values; c = 0.00054 times that number."""
    data, noise = pairs((8, *SHAPE))
    size = data[0].numel()
    shift = lambda model, by: setattr(model, "predict", lambda xt, t: data - noise + by)  # noqa: E731
    for by in (0.01, 0.5):
        for huber_c, c in ((-1.0, 0.00054 * size), (0.03, 0.03), (0.0, 0.0)):
            model = exact_model(huber_c=huber_c)
            shift(model, by)
            expected = (np.sqrt(by**2 * size + c**2) - c) / np.sqrt(size)
            assert loss(model, data, noise) == pytest.approx(expected, abs=1e-5)
        model = exact_model(loss="l2")
        shift(model, by)
        assert loss(model, data, noise) == pytest.approx(by**2, rel=1e-3)


def test_u_shaped_times_have_their_density():
    """The distribution function of exp(a t) + exp(a (1 - t)), held against the share of draws below each t."""
    torch.manual_seed(0)
    t = LinearPathScheduler(time_distribution="u_shaped").sample_timesteps(100000, "cpu")
    assert t.min() >= 0 and t.max() <= 1
    for edge in (0.05, 0.2, 0.5, 0.7, 0.95):
        grid = torch.linspace(0, 1, 100001, dtype=torch.float64)
        density = (U_SHAPE * grid).exp() + (U_SHAPE * (1 - grid)).exp()
        expected = (density[grid <= edge].sum() / density.sum()).item()
        assert (t <= edge).float().mean().item() == pytest.approx(expected, abs=0.006)
    assert ((t < 0.1) | (t > 0.9)).float().mean() > 0.3, "the ends are not favoured"


def test_it_starts_from_rectified_flow_and_teaches_nobody():
    assert tiny_model("reflow").parameterization == tiny_model("rectified_flow").parameterization
    student = tiny_model("progressive")
    with pytest.raises(ValueError, match="method ReFlow cannot teach: its flow has no solver"):
        student.set_teacher(tiny_model("reflow"))
