"""Methods of the straight path whose network predicts the data: the velocity is the same, and one step ends on what it drew."""

import pytest
import torch

from src.methods.shared.straight_path import MIN_LEFT, as_velocity
from tests.helpers import SHAPE, tiny_model
from tests.methods import battery
from tests.methods.oracles_flow import velocity

CHECKS = (battery.check_number_of_calls, battery.check_nfe_differ, battery.check_seeds, battery.check_loss)
FLOWS = pytest.mark.parametrize("method", ["rectified_flow", "reflow", "shortcut", "meanflow", "flow_map"])


def test_exact_data_give_the_exact_velocity():
    x, t = torch.randn(50, 2).double(), torch.linspace(0, 1 - MIN_LEFT, 50).double()
    exact = velocity(x, t)
    data = x + (1 - t)[:, None] * exact
    torch.testing.assert_close(as_velocity(data, x, t, "data"), exact)
    assert torch.equal(as_velocity(exact, x, t, "velocity"), exact)


def test_the_velocity_stays_finite_at_the_data():
    x, output = torch.zeros(1, 2), torch.ones(1, 2)
    assert as_velocity(output, x, torch.ones(1), "data").max() == pytest.approx(1 / MIN_LEFT)


@FLOWS
def test_one_step_ends_on_what_the_network_drew(method):
    model = tiny_model(method, prediction="data")
    drawn = []
    model.network.register_forward_hook(lambda module, args, output: drawn.append(output))
    image = model.sample((2, *SHAPE), 1, seeds=[0, 1])
    torch.testing.assert_close(image, drawn[0], atol=1e-5, rtol=0)
    plain = tiny_model(method).sample((2, *SHAPE), 1, seeds=[0, 1])
    assert (plain - image).abs().mean() > 0.1


@FLOWS
def test_it_trains_and_its_networks_are_not_mistaken(method):
    """The option is part of what a network means: no student takes over weights that mean something else."""
    model = tiny_model(method, prediction="data").train()
    torch.manual_seed(0)
    loss = model.compute_loss(torch.rand(4, *SHAPE) * 2 - 1, torch.randn(4, *SHAPE), step=1, total_steps=1)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.network.parameters() if p.grad is not None)
    if model.parameterization is not None:
        assert model.parameterization != tiny_model(method).parameterization
    with pytest.raises(ValueError, match="unknown prediction 'noise'; expected one of velocity, data"):
        tiny_model(method, prediction="noise")


@pytest.mark.parametrize("method", ["rectified_flow", "shortcut"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_battery(method, check):
    check(lambda: tiny_model(method, prediction="data"))
