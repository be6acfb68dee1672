"""Flow maps by self-distillation against closed forms: on a Gaussian the flow map is affine."""

import pytest
import torch

from src.utils import expand_t
from tests.methods import oracles_flow as oracle


def lagrangian_residual():
    value, target = oracle.exact_model("flow_map").lagrangian(*oracle.states())
    return (value - target).abs().max().item()


def test_the_exact_map_solves_the_lagrangian_equation():
    assert lagrangian_residual() < 1e-10


def test_a_derivative_of_the_wrong_sign_is_found(monkeypatch):
    oracle.flip_the_derivative(monkeypatch)
    assert lagrangian_residual() > 0.1


def test_the_derivative_is_a_central_difference_with_one_dropout_mask():
    model = oracle.point_model("flow_map", dropout=0.5).train()
    xs, s, t = oracle.states()
    step = 1e-6

    def masked(t):
        torch.manual_seed(7)
        return xs + expand_t(t - s, xs) * model.predict(xs, s, t - s)

    torch.manual_seed(7)
    value, target = model.lagrangian(xs, s, t)
    torch.testing.assert_close(value, (masked(t + step) - masked(t - step)) / (2 * step), atol=1e-7, rtol=1e-7)
    at_t = masked(t)
    torch.testing.assert_close(target, model.eval().predict(at_t, t).detach())


@pytest.mark.parametrize("gamma", [0.0, 0.2, 0.5, 1.0])
def test_the_exact_map_is_a_semigroup(gamma):
    xs, s, t = oracle.states()
    value, target = oracle.exact_model("flow_map").progressive(xs, s, t, torch.full_like(s, gamma))
    assert (value - target).abs().max() < 1e-10


def test_the_wrong_intermediate_time_is_found(monkeypatch):
    """Teachers that are given a time of the wrong sign give another target."""
    model = oracle.exact_model("flow_map")
    teacher = model._teacher
    monkeypatch.setattr(model, "_teacher", lambda x, s, h: teacher(x, s, -h))
    value, target = model.progressive(*oracle.states(), torch.full((64,), 0.5).double())
    assert (value - target).abs().max() > 0.1


@pytest.mark.parametrize("variant", ["lagrangian", "progressive"])
def test_the_teacher_has_no_gradient_and_no_dropout(variant):
    model = oracle.point_model("flow_map", dropout=0.5).train()
    xs, s, t = oracle.states()
    arguments = (xs, s, t) if variant == "lagrangian" else (xs, s, t, torch.full_like(s, 0.3))
    value, target = getattr(model, variant)(*arguments)
    assert value.requires_grad and not target.requires_grad
    assert model.network.training and all(module.training for module in model.network.modules())
    if variant == "progressive":
        torch.testing.assert_close(getattr(model, variant)(*arguments)[1], target)
    value.square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_lagrangian_gradient_goes_through_the_derivative():
    """The gradient of the loss in a weight, against its central difference with the teacher held fixed."""
    model = oracle.point_model("flow_map")
    xs, s, t = oracle.states()
    value, target = model.lagrangian(xs, s, t)
    (value - target).square().mean().backward()
    weight, step = model.network.layers[0].weight, 1e-6
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 3] += sign * step
            losses.append((model.lagrangian(xs, s, t)[0] - target).square().mean().item())
            weight[0, 3] -= sign * step
    assert abs((losses[0] - losses[1]) / (2 * step) - weight.grad[0, 3].item()) < 1e-7


@pytest.mark.parametrize("options", [{}, {"variant": "progressive"}, {"variant": "progressive", "intermediate": "midpoint"}])
def test_the_exact_map_has_the_least_loss(options):
    for diagonal_share in (0.75, 1.0):
        model = oracle.exact_model("flow_map", diagonal_share=diagonal_share, **options)
        below, least, above = oracle.shifted_losses(model, *oracle.pairs())
        assert least < below - 0.05 and least < above - 0.05
    model = oracle.exact_model("flow_map", diagonal_share=0.0, **options)
    assert oracle.shifted_losses(model, *oracle.pairs(), shifts=(0.0,))[0] < 1e-6


def test_times_and_shares():
    model = oracle.exact_model("flow_map", variant="progressive")
    seen = []
    model.network.forward = lambda x, t, h: seen.append((t / 1000, h / 1000)) or 0 * x
    torch.manual_seed(0)
    model.compute_loss(*oracle.pairs(batch=4000))
    (s, zero), (start, whole), (_, first), (middle, second) = seen
    assert len(s) == 3000 and (zero == 0).all() and abs(s.mean() - 1 / 2) < 0.02
    assert len(start) == 1000 and abs(start.mean() - 1 / 3) < 0.03 and abs(whole.mean() - 1 / 3) < 0.03
    torch.testing.assert_close(start + first, middle, atol=1e-5, rtol=0)
    torch.testing.assert_close(first + second, whole, atol=1e-5, rtol=0)
