"""Consistency models against the exact consistency function of a Gaussian N(MEAN, STD^2) on the Karras path."""

import math

import pytest
import torch

from custom_model import create_custom_model
from src.methods import get_method
from src.utils import expand_t
from tests.helpers import SHAPE, tiny_model

MEAN, STD = 0.3, 0.4


def exact_function(x, sigma, boundary, sign=1):
    """Where the probability flow from x at sigma ends, at the level `boundary`; a wrong sign plants a fault."""
    ratio = (STD**2 + boundary**2) / (STD**2 + expand_t(sigma, x) ** 2)
    return MEAN + (x - MEAN) * ratio ** (sign * 0.5)


def exact_model(sign=1, **options):
    model = get_method("consistency").from_options(torch.nn.Linear(1, 1), **options).double()
    model.predict = lambda xt, t, **kwargs: exact_function(xt, t, model.boundary, sign)
    return model


def loss_on_the_trajectory(model, step=1, total_steps=1):
    """The loss where data and noise are such that xt and xr lie on the line that touches the exact trajectory at xt."""
    torch.manual_seed(0)
    t, r = (levels.double() for levels in model.scheduler.pairs(64, "cpu", step, total_steps))
    model.scheduler.pairs = lambda *args: (t, r)
    level = expand_t(t, torch.zeros(64, *SHAPE)).double()
    xt = MEAN + (STD**2 + level**2).sqrt() * torch.randn(64, *SHAPE).double()
    denoised = (STD**2 * xt + level**2 * MEAN) / (STD**2 + level**2)
    return model.compute_loss(denoised, (xt - denoised) / level, step=step, total_steps=total_steps).item()


@pytest.mark.parametrize("options", [{"q": 1e6, "stages": 1, "k": 0.0}, {"variant": "ict", "s0": 10**6, "s1": 10**6}])
def test_the_exact_function_is_a_fixed_point(options):
    assert loss_on_the_trajectory(exact_model(**options, huber_c=0.0)) < 1e-6
    assert loss_on_the_trajectory(exact_model(sign=-1, **options, huber_c=0.0)) > 1e-2, "a wrong function is one too"


@pytest.mark.parametrize("variant", ["ect", "ict"])
def test_samples_of_the_exact_function_have_the_distribution(variant):
    model = exact_model(variant=variant)
    for nfe in (1, 2, 4, 9):
        samples = model.sample((64, *SHAPE), nfe, seeds=range(64))
        assert samples.mean().item() == pytest.approx(MEAN, abs=0.02)
        assert samples.std().item() == pytest.approx(STD, abs=0.02)


@pytest.mark.parametrize("variant", ["ect", "ict"])
def test_the_network_is_the_identity_at_the_boundary(variant):
    model = tiny_model("consistency", variant=variant)
    x = torch.randn(2, *SHAPE)
    assert torch.equal(model.predict(x, torch.full((2,), model.boundary)), x)
    assert (model.predict(x, torch.full((2,), 0.5)) - x).abs().mean() > 0.05


def test_both_calls_drop_out_the_same_units():
    """Two levels so near that only other units could make a difference."""
    model = create_custom_model(method="consistency", ch=8, ch_mult=[1], attn=[0], num_res_blocks=1, dropout=0.5)
    with torch.no_grad():
        model.network.tail[-1].weight.normal_()
    model.train()
    outputs = []
    predict = model.predict
    model.predict = lambda *args: outputs.append(predict(*args)) or outputs[-1]
    t = torch.full((4,), 0.8)
    model.scheduler.pairs = lambda *args: (t, t * (1 - 1e-6))
    before = torch.get_rng_state()
    model.compute_loss(torch.randn(4, *SHAPE), torch.randn(4, *SHAPE))
    (pred, target), other = outputs, predict(torch.randn(4, *SHAPE), t)
    torch.testing.assert_close(target, pred.detach(), atol=1e-3, rtol=1e-3)
    assert (other - target).abs().mean() > 0.1 and not torch.equal(torch.get_rng_state(), before)


def test_ect_gaps_shrink_by_stages():
    """r = t (1 - (1 + k sigmoid(-b t)) / q^stage): ECT, eq. 15."""
    scheduler = tiny_model("consistency", stages=8).scheduler
    torch.manual_seed(0)
    for step, stage in ((1, 1), (100, 1), (101, 2), (800, 8)):
        t, r = scheduler.pairs(1000, "cpu", step, 800)
        expected = (1 - (1 + 8 / (1 + t.exp())) / 2**stage).clamp(min=0) * t
        torch.testing.assert_close(r, expected)
    assert (r < t).all() and r.min() > 0
    assert (scheduler.pairs(1000, "cpu", 1, 800)[1] == 0).float().mean() > 0.5, "training begins as denoising"


def test_ict_levels_double_and_are_drawn_by_the_log_normal():
    scheduler = tiny_model("consistency", variant="ict").scheduler
    counts = [len(scheduler.grid(step, 800)) - 1 for step in (1, 100, 101, 201, 701, 800)]
    assert counts == [10, 10, 20, 40, 1280, 1280]
    grid = scheduler.grid(800, 800)
    assert grid[0] == pytest.approx(0.002) and grid[-1] == 80 and (grid.diff() > 0).all()
    torch.manual_seed(0)
    t, r = scheduler.pairs(50000, "cpu", 800, 800)
    assert torch.isin(t, grid).all() and torch.isin(r, grid).all() and (t > r).all()
    inside = (r.log() - -1.1) / 2.0  # of the standard normal cut at the ends of the grid
    low, high = ((math.log(end) + 1.1) / 2 for end in (0.002, 80))
    normal = torch.distributions.Normal(0.0, 1.0)
    share = (normal.cdf(torch.tensor(0.0)) - normal.cdf(torch.tensor(low))) / (
        normal.cdf(torch.tensor(high)) - normal.cdf(torch.tensor(low))
    )
    assert (inside < 0).float().mean().item() == pytest.approx(share.item(), abs=0.01)


def test_sampling_levels():
    model = tiny_model("consistency", mid_sigma=0.8, mid_span=2.0)
    assert model.config.levels(1) == [80]
    assert model.config.levels(2) == pytest.approx([80, 0.8])
    assert model.config.levels(4) == pytest.approx([80, 1.6, 0.8, 0.4])
    with pytest.raises(ValueError, match="at least 1 step"):
        model.config.levels(0)
