"""Consistency trajectory models against the exact jumps of a Gaussian's flow."""

import math

import pytest
import torch

from src.common.noise import draw_noise
from src.methods.shared.solvers import karras_grid
from tests.helpers import SHAPE, tiny_model
from tests.methods.oracles import GAUSSIAN
from tests.methods.oracles_solver import pairs, start, student

MEAN, STD = 0.3, 0.4


def exact_g(xt, t, s=None, network=None, sign=1):
    """What g must be for G to be the flow from t to s: the denoised data where s = t; a wrong sign plants a fault."""
    s = t if s is None else s
    t, s = (level.double().reshape(-1, *[1] * (xt.ndim - 1)) for level in (t, s))
    flow = MEAN + (xt - MEAN) * ((STD**2 + s**2) / (STD**2 + t**2)) ** (sign * 0.5)
    share = torch.where(t > 0, s / t, 1.0)
    return torch.where(s < t, (flow - share * xt) / (1 - share).clamp(min=1e-12), GAUSSIAN.posterior_mean(xt, 1.0, t))


def exact_student(sign=1, **options):
    model = student("ctm", **options)
    model.predict = lambda *args: exact_g(*args, sign=sign)
    return model


def trajectory_loss(model):
    torch.manual_seed(0)
    return model.compute_loss(*pairs(1024)).item()


@pytest.mark.parametrize("solver, order", [("heun", 2), ("euler", 1)])
def test_the_exact_jumps_are_a_zero_of_the_loss_as_steps_shrink(solver, order):
    options = {"solver": solver, "lambda_DSM": 0.0}
    coarse, fine = (trajectory_loss(exact_student(N=n, **options)) for n in (18, 72))
    assert fine < coarse / 4**order * 1.6 and fine < 3e-3
    assert trajectory_loss(exact_student(sign=-1, N=72, **options)) > 0.05, "wrong jumps are one too"


def test_a_solver_that_stops_at_the_wrong_level_is_found(monkeypatch):
    model = exact_student(N=72, lambda_DSM=0.0)
    fine = trajectory_loss(model)
    monkeypatch.setattr(model, "solve", lambda xt, levels, i, j: xt)
    assert trajectory_loss(model) > 20 * fine


def test_the_teacher_goes_from_t_to_u():
    model = student("ctm", N=200, solver_steps=30)
    levels = karras_grid(80.0, 0.002, 200, "cpu")
    i, j = torch.tensor([0, 0, 50, 120, 150, 199]), torch.tensor([30, 1, 70, 150, 180, 200])
    xt = MEAN + (STD**2 + levels[i, None].double() ** 2).sqrt() * start((6, 2))
    expected = GAUSSIAN.flow(xt, 1.0, levels[i, None], 1.0, levels[j, None])
    reached = model.solve(xt, levels, i, j)
    torch.testing.assert_close(reached, expected, atol=2e-3, rtol=2e-3)
    assert ((reached - xt).abs() > 5e-3).all(dim=1)[:5].all(), "the rows hardly move"


def test_the_levels_of_training():
    """t is above u and u not below s, at most solver_steps apart; all pairs of the grid are met; the right calls are made."""
    model, seen = exact_student(N=6, solver_steps=2), []
    jump, solve = model.jump, model.solve
    model.jump = lambda x, t, s, network=None: seen.append((t, s, network)) or jump(x, t, s, network)
    model.solve = lambda x, levels, i, j: seen.append((i, j)) or solve(x, levels, i, j)
    torch.manual_seed(0)
    model.trajectory_ends(*pairs(2000))
    (t, s, own), (s1, end, target), (i, j), (u, s2, target2), (s3, end2, target3) = seen
    assert own is None and target is target2 is target3 is model.train_only["target"]
    assert torch.equal(s, s1) and torch.equal(s, s2) and torch.equal(s, s3) and not end.any() and not end2.any()
    assert (t > u).all() and (u >= s).all() and ((j - i) <= 2).all()
    assert len(torch.stack([t, s], 1).unique(dim=0)) == 6 * 7 / 2
    counts = torch.bincount(i, minlength=6)
    assert (counts > 250).all()
    assert (s[t == 80] == 0).float().mean().item() == pytest.approx(1 / 6, abs=0.06)


def test_boundaries_of_a_jump():
    model, x = tiny_model("ctm"), torch.randn(3, *SHAPE)
    t, zero = torch.tensor([80.0, 1.0, 0.1]), torch.zeros(3)
    torch.testing.assert_close(model.jump(x, t, t), x)
    torch.testing.assert_close(model.jump(x, t, zero), model.predict(x, t, zero))
    torch.testing.assert_close(model.jump(x, t, t / 4), x / 4 + 3 / 4 * model.predict(x, t, t / 4))
    assert torch.equal(model.jump(x, zero, zero), x)


def test_what_the_network_is_told():
    model, seen = tiny_model("ctm", time_scale=2.0), []
    model.network.forward = lambda x, time, condition: seen.append((time, condition)) or x
    t, s = torch.tensor([80.0, 1.0, 0.5]), torch.tensor([1.0, 0.5, 0.0])
    model.predict(torch.randn(3, *SHAPE), t, s)
    model.predict(torch.randn(3, *SHAPE), t)
    torch.testing.assert_close(seen[0][0], t.log() / 2)
    torch.testing.assert_close(seen[0][1], torch.tensor([0.0, math.log(0.5) / 2, math.log(0.002) / 2]))
    torch.testing.assert_close(seen[1][1], t.log() / 2)


def test_the_best_denoiser_has_the_least_denoising_loss():
    losses = []
    for shift in (-0.1, 0.0, 0.1):
        model = exact_student()
        model.predict = lambda xt, t, shift=shift: exact_g(xt, t) + shift * (t / (t**2 + 0.25).sqrt())[:, None]
        torch.manual_seed(0)
        losses.append(model.denoising_loss(*pairs(4096)).item())
    assert losses[1] < losses[0] - 0.02 and losses[1] < losses[2] - 0.02


def test_the_two_losses_add_up():
    losses = [trajectory_loss(exact_student(sign=-1, lambda_DSM=weight)) for weight in (0.0, 1.0, 3.0)]
    assert losses[1] > losses[0] + 0.1
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]))


def moments(model, nfe):
    samples = model.sample((128, *SHAPE), nfe, seeds=range(128))
    return samples.mean().item(), samples.std().item()


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
def test_gamma_sampling_has_the_distribution(gamma, monkeypatch):
    model = exact_student(gamma=gamma)
    for nfe in (1, 2, 4):
        assert moments(model, nfe) == (pytest.approx(MEAN, abs=0.02), pytest.approx(STD, abs=0.02))
    if gamma == 0:
        seeds = range(4)
        first, *_, last = model.sample((4, *SHAPE), 4, return_traj=True, seeds=seeds)
        torch.testing.assert_close(last, GAUSSIAN.flow(first, 1.0, 80.0).float(), atol=1e-4, rtol=0)
        return
    doubled = lambda *args, draw=0: draw_noise(*args, draw=draw) * (2 if draw else 1)  # noqa: E731
    monkeypatch.setattr("src.methods.shared.method.draw_noise", doubled)
    assert moments(model, 4)[1] > STD + 0.05, "noise of twice the size is found"


def test_gradients_reach_the_student_through_the_targets_jump():
    model = tiny_model("ctm", lambda_DSM=0.0).train()
    with torch.no_grad():
        for parameter in model.train_only["target"].parameters():
            parameter.normal_()
    torch.manual_seed(0)
    t, here, there = model.trajectory_ends(torch.randn(4, *SHAPE), torch.randn(4, *SHAPE))
    assert here.requires_grad and not there.requires_grad and t.shape == (4,)
    here.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.network.parameters())
    assert all(p.grad is None for p in model.train_only["target"].parameters())


def test_the_target_follows_the_network():
    """After each step it keeps mu of itself; before step 1 it becomes the network, whatever that was when it was built."""
    model = tiny_model("ctm", mu=0.5)
    target, network = (list(part.parameters()) for part in (model.train_only["target"], model.network))
    with torch.no_grad():
        for parameter in target:
            parameter.zero_()
    expected = [p.detach().clone() for p in network]
    optimizer = torch.optim.SGD(network, lr=1e-2)
    for step in (1, 2):
        optimizer.zero_grad()
        model.compute_loss(torch.randn(2, *SHAPE), torch.randn(2, *SHAPE), step=step, total_steps=2).backward()
        optimizer.step()
        model.on_step_end(step, 2)
        for mean, parameter in zip(expected, network, strict=True):
            mean.lerp_(parameter.detach(), 0.5)
    torch.testing.assert_close(target, expected, atol=1e-6, rtol=1e-6, check_stride=False)
    assert any(not torch.equal(mine, p) for mine, p in zip(target, network, strict=True))


def adversarial_parts(model, data, noise):
    """The gradients in the last layer of the trajectory loss, of the adversarial loss and of the loss, for the same draws."""
    last, losses = model.network.tail[-1].weight, []
    torch.manual_seed(0)
    _, here, there = model.trajectory_ends(data, noise)
    losses.append(model.distance(here, there).mean())
    losses.append(-sum(logits.mean(dim=1) for logits in model.critic_logits(here)).mean())
    torch.manual_seed(0)
    losses.append(model.compute_loss(data, noise, step=2, total_steps=4))
    return [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in losses]


def test_the_adversarial_loss_pulls_at_the_last_layer_as_hard_as_the_trajectory_loss():
    torch.manual_seed(0)
    data, noise = torch.randn(2, 4, *SHAPE)
    for weight in (1.0, 0.25):
        model = tiny_model("ctm", lambda_GAN=weight, lambda_DSM=0.0, augment="none")
        model.train_only["discriminator"].eval()  # spectral norm takes no step
        logits = model.critic_logits
        model.critic_logits = lambda *arguments, logits=logits: [30 * rows for rows in logits(*arguments)]
        trajectory, adversarial, both = adversarial_parts(model, data, noise)
        assert adversarial.norm() > 3 * trajectory.norm(), "as they are, the weight would do nothing"
        added = both - trajectory
        assert added.norm().item() == pytest.approx(weight * trajectory.norm().item(), rel=0.02)
        assert torch.cosine_similarity(added.flatten(), adversarial.flatten(), dim=0) > 0.999


def test_the_two_groups_of_the_adversarial_loss():
    assert list(tiny_model("ctm").optim_groups()) == ["network"]
    assert "discriminator" not in tiny_model("ctm").train_only
    assert len(tiny_model("ctm", lambda_GAN=1.0).train_only["discriminator"].levels) == 0, "its levels are too many to tell"
    model = tiny_model("ctm", lambda_GAN=1.0).train()
    groups = {name: list(parameters) for name, parameters in model.optim_groups().items()}
    assert [model.lr_scale(name) for name in groups] == [1.0, 2.0]
    assert [model.betas(name) for name in groups] == [(0.9, 0.999), (0.0, 0.99)]
    for group in groups:
        model.zero_grad()
        model.train_only["discriminator"].zero_grad()
        model.compute_loss(*torch.randn(2, 4, *SHAPE), step=1, total_steps=2, group=group).backward()
        for name, parameters in groups.items():
            assert all((p.grad is not None) == (name == group) for p in parameters)
        assert all(p.grad is None for part in ("teacher", "target") for p in model.train_only[part].parameters())


def test_the_discriminator_sees_the_students_ends():
    """Data against the same ends as the trajectory loss compares, by the hinge loss; the teacher's solver has no part in it."""
    model, seen = tiny_model("ctm", lambda_GAN=1.0, r1_gamma=0.0, augment="none"), []
    data, noise = torch.randn(2, 4, *SHAPE)
    discriminator = model.train_only["discriminator"]
    discriminator.features = lambda x, labels=None: seen.append(x) or [x]
    discriminator.forward = lambda features, sigma, labels=None: [features[0].flatten(1)[:, :3]]
    torch.manual_seed(3)
    t, here, _ = model.trajectory_ends(data, noise)
    model.solve = None
    torch.manual_seed(3)
    loss = model.compute_loss(data, noise, step=1, total_steps=2, group="discriminator")
    assert torch.equal(seen[0], data)
    torch.testing.assert_close(seen[1], here.detach())
    logits = [samples.flatten(1)[:, :3] for samples in (data, here.detach())]
    torch.testing.assert_close(loss, (1 - logits[0]).relu().mean() + (1 + logits[1]).relu().mean())
    assert len(t.unique()) > 1
