"""The shared solver and the shared distances."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch

from src.methods.shared.solvers import distance, grid_of_calls, load_lpips, solve
from tests.methods.oracles import GAUSSIAN, MIXTURE
from tests.methods.oracles_solver import ExactTeacher, PerceptualStub, start


def error(steps, order, data=GAUSSIAN, sign=1):
    levels = grid_of_calls(80.0, 0.002, steps, "cpu")
    x = 80 * start((64, 2))
    end = solve(ExactTeacher(data, sign).denoised, x, levels, order)[-1]
    return (end - data.flow(x, 1.0, 80.0)).abs().mean().item()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE])
def test_errors_fall_by_the_order(order, data):
    coarse, fine = error(40, order, data), error(160, order, data)
    rate = math.log(coarse / fine) / math.log(4)
    assert rate == pytest.approx(order, abs=0.35) and fine < 0.02
    assert error(160, order, data, sign=-1) > 1, "a slope of the wrong sign is found"


def test_the_second_order_is_nearer():
    assert error(16, 2) < error(16, 1) / 2 and error(32, 2) < error(32, 1) / 4


def test_grid():
    levels = grid_of_calls(80.0, 0.002, 4, "cpu")
    ends = 80 ** (1 / 7), 0.002 ** (1 / 7)
    expected = [(ends[0] + i / 4 * (ends[1] - ends[0])) ** 7 for i in range(4)] + [0]
    torch.testing.assert_close(levels, torch.tensor(expected), rtol=1e-5, atol=0)
    assert grid_of_calls(80.0, 0.002, 1, "cpu").tolist() == [80, 0]
    with pytest.raises(ValueError, match="at least 1 sampling step, got 0"):
        grid_of_calls(80.0, 0.002, 0, "cpu")


def test_what_is_asked_may_differ_from_where_the_state_is():
    levels, asked, seen = torch.tensor([80.0, 2.0, 0.3, 0.0]), torch.tensor([70.0, 3.0, 0.2]), []
    states = solve(lambda x, sigma: seen.append(sigma) or 0 * x, torch.ones(2, 3), levels, 2, asked)
    torch.testing.assert_close(torch.stack(seen), asked[:, None].expand(3, 2))
    torch.testing.assert_close(torch.stack(states)[:, 0, 0], levels / 80)  # data at 0: states shrink as their levels do


def test_gradient_in_the_levels():
    x, levels = 80 * start((8, 2)), grid_of_calls(80.0, 0.002, 5, "cpu").double()
    inner = levels[1:-1].clone().requires_grad_()
    full = lambda inner: torch.cat([levels[:1], inner, levels[-1:]])  # noqa: E731
    end = lambda inner: solve(ExactTeacher(MIXTURE).denoised, x, full(inner), 2)[-1].square().sum()  # noqa: E731
    assert torch.autograd.gradcheck(end, inner, eps=1e-6, atol=1e-4)


def test_distances():
    ours, theirs = torch.zeros(2, 3, 4, 4), torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.5)])
    torch.testing.assert_close(distance("l2", ours, theirs), torch.tensor([0.0, 0.25]))
    torch.testing.assert_close(distance("huber", ours, theirs), torch.tensor([0.0, 0.5]), atol=1e-3, rtol=0)
    ours = torch.zeros(1, 2, requires_grad=True)
    distance("huber", ours, torch.zeros(1, 2)).sum().backward()
    assert torch.equal(ours.grad, torch.zeros(1, 2)), "the root has a slope at 0"


def test_lpips_is_asked_for_only_where_it_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match="needs the package lpips: pip install lpips"):
        load_lpips(torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=PerceptualStub))
    perceptual = load_lpips(torch.device("cpu"))
    assert not perceptual.training and not any(p.requires_grad for p in perceptual.parameters())
    images = torch.zeros(2, 3, 64, 64)
    torch.testing.assert_close(distance("lpips", images, images + 0.5, perceptual), torch.ones(2))
    for small in (torch.zeros(2, 3, 32, 64), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="images of 64x64 or more"):
            distance("lpips", small, small, perceptual)
