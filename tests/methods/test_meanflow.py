"""MeanFlow against closed forms: on a Gaussian the average velocity is known."""

import pytest
import torch

from src.utils import expand_t
from tests.methods import oracles_flow as oracle


def exact_residual():
    """Of the identity, with the marginal velocity for v.

    Training feeds the velocity of one pair, data - noise. The right-hand side is linear in it, so its mean over the pairs that
    meet in xt, which is what least squares learns, is the right-hand side of the marginal velocity.
    """
    model = oracle.exact_model("meanflow")
    xt, t, r = oracle.states()
    u, target = model.average_and_target(xt, t, r, oracle.velocity(xt, t))
    torch.testing.assert_close(u, oracle.average_velocity(xt, t, r - t))
    return (u - target).abs().max().item()


def test_the_exact_average_velocity_solves_the_identity():
    assert exact_residual() < 1e-10


def test_a_derivative_of_the_wrong_sign_is_found(monkeypatch):
    oracle.flip_the_derivative(monkeypatch)
    assert exact_residual() > 0.1


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_a_direction_of_the_wrong_sign_is_found(monkeypatch, wrong):
    """Of the three in (v, 1, -1), the derivative's direction in x, t and h."""
    jvp = torch.func.jvp

    def planted(function, primals, tangents):
        return jvp(function, primals, tuple(-value if i == wrong else value for i, value in enumerate(tangents)))

    monkeypatch.setattr(torch.func, "jvp", planted)
    assert exact_residual() > 0.1


def test_value_and_derivative_share_one_dropout_mask():
    """The target's derivative is the central difference of the network with the mask that the value was made with."""
    model = oracle.point_model("meanflow", dropout=0.5).train()
    xt, t, r = oracle.states()
    v, step = torch.ones_like(xt), 1e-6

    def masked(x, t, h):
        torch.manual_seed(7)
        return model.predict(x, t, h)

    torch.manual_seed(7)
    u, target = model.average_and_target(xt, t, r, v)
    torch.testing.assert_close(u, masked(xt, t, r - t))
    difference = (masked(xt + step * v, t + step, r - t - step) - masked(xt - step * v, t - step, r - t + step)) / (2 * step)
    torch.testing.assert_close(target, v + expand_t(r - t, xt) * difference, atol=1e-7, rtol=1e-7)
    assert (model.predict(xt, t, r - t) - u).abs().max() > 0.01, "the dropout does nothing here"


def test_only_the_value_carries_a_gradient():
    model = oracle.point_model("meanflow")
    xt, t, r = oracle.states()
    u, target = model.average_and_target(xt, t, r, torch.ones_like(xt))
    assert u.requires_grad and not target.requires_grad
    (u - target).square().mean().backward()
    learnt = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    (model.predict(xt, t, r - t) - target).square().mean().backward()
    torch.testing.assert_close(learnt, [p.grad for p in model.parameters()])


def test_the_derivative_is_float32_under_autocast():
    model = oracle.point_model("meanflow").float()
    xt, t, r = (value.float() for value in oracle.states())
    plain = model.average_and_target(xt, t, r, xt)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.average_and_target(xt, t, r, xt), plain, atol=0, rtol=0)


@pytest.mark.parametrize("flow_share", [0.0, 0.25, 1.0])
def test_the_exact_average_velocity_has_the_least_loss(flow_share):
    model = oracle.exact_model("meanflow", norm_p=0.0, flow_share=flow_share, time_distribution="uniform")
    below, least, above = oracle.shifted_losses(model, *oracle.pairs())
    shift = 2 * 0.3**2  # the squared error is summed over two coordinates
    assert least + 0.7 * shift < below < least + 1.3 * shift and least + 0.7 * shift < above < least + 1.3 * shift


def test_adaptive_weight():
    """loss = S / (S + norm_eps)^norm_p for the summed square S of each image; its gradient is that of S times the weight."""
    data, noise = oracle.pairs(batch=1)
    values = {}
    for norm_p in (0.0, 0.5, 1.0):
        model = oracle.point_model("meanflow", norm_p=norm_p, norm_eps=0.1, flow_share=1.0)
        torch.manual_seed(2)
        loss = model.compute_loss(data, noise)
        loss.backward()
        values[norm_p] = loss.detach(), model.network.layers[0].weight.grad
    square, gradient = values[0.0]
    for norm_p in (0.5, 1.0):
        weight = (square + 0.1) ** -norm_p
        torch.testing.assert_close(values[norm_p], (square * weight, gradient * weight))


def test_times_are_the_papers_seen_from_the_other_end():
    model = oracle.exact_model("meanflow")
    torch.manual_seed(0)
    logits = torch.logit(model.scheduler.sample_timesteps(20000, "cpu").double())
    assert abs(logits.mean() - 2) < 0.05 and abs(logits.std() - 2) < 0.05
    seen = []
    model.network.forward = lambda x, t, h: seen.append((t / 1000, h / 1000)) or x
    model.compute_loss(*oracle.pairs(batch=64))
    (flow_t, flow_h), (jump_t, jump_h) = seen
    assert len(flow_t) == 16 and (flow_h == 0).all()
    assert len(jump_t) == 48 and (jump_h > 0).all() and (jump_t + jump_h <= 1).all()
