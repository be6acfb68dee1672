"""The three losses where the score is known exactly: gradients in closed form, and where they lead."""

from itertools import pairwise

import pytest
import torch

from src.score_distillation.command import LOSSES
from src.score_distillation.optimize import OptimizeOptions, optimize
from src.score_distillation.prior import Condition
from src.score_distillation.sdi import ddim, time_grid
from tests.score_distillation.mixture import Mixture, nearest

LEFT, RIGHT, UP = (-2.0, 0.0), (2.0, 0.0), (0.0, 2.0)
STD = 0.4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(loss_type, prior, condition, **options):
    return LOSSES[loss_type](prior, condition, LOSSES[loss_type].Config(**options))


@pytest.fixture
def mixture():
    return Mixture([LEFT, RIGHT, UP], STD, {"left": [0], "right": [1], "up": [2], "sides": [0, 1]})


@pytest.fixture
def x():
    torch.manual_seed(3)
    return torch.randn(6, 2)


def gaussian_noise(prior, xt, t, mean, std=STD):
    """The noise that is expected in xt, of data of one Gaussian: a formula of its own, by regression of noise on xt."""
    alpha_bar = prior.alpha_bar[t][:, None]
    covariance, variance = (1 - alpha_bar).sqrt(), alpha_bar * std**2 + 1 - alpha_bar
    return covariance / variance * (xt - alpha_bar.sqrt() * torch.tensor(mean))


def drawn(prior, x, seed=0):
    """The times and noise that a loss draws, and the states."""
    draws = generator(seed)
    t = torch.randint(20, 981, (len(x),), generator=draws)
    noise = torch.randn(x.shape, generator=draws)
    alpha_bar = prior.alpha_bar[t][:, None]
    return alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise, t, noise


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_gradient_of_sds(mixture, x, scale):
    """Guided noise of two single Gaussians, minus the noise that was added."""
    condition = mixture.encode_condition("right", "left")
    found = make("sds", mixture, condition, guidance_scale=scale).gradient(x, 1, 1, generator())
    xt, t, noise = drawn(mixture, x)
    wanted, unwanted = (gaussian_noise(mixture, xt, t, mean) for mean in (RIGHT, LEFT))
    torch.testing.assert_close(found, (1 - scale) * unwanted + scale * wanted - noise, atol=1e-4, rtol=1e-4)


def test_gradient_of_vsd(x):
    """The noise of the prior's Gaussian minus that of the particles', each guided by its own scale."""
    prior = Mixture([RIGHT, LEFT], STD, {"right": [0], "left": [1]})
    lora = Mixture([UP, (0.0, -1.0)], STD, {"right": [0], "left": [1]})
    condition = prior.encode_condition("right", "left")
    loss = make("vsd", prior, condition, guidance_scale=7.5)
    loss.lora = lora
    found = loss.difference(x, generator())
    xt, t, _ = drawn(prior, x)
    wanted, unwanted = (gaussian_noise(prior, xt, t, mean) for mean in (RIGHT, LEFT))
    expected = unwanted + 7.5 * (wanted - unwanted) - gaussian_noise(prior, xt, t, UP)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_loss_of_the_adapters(x):
    prior = Mixture([RIGHT], STD)
    xt, t, noise = drawn(prior, x)
    expected = (gaussian_noise(prior, xt, t, RIGHT) - noise).square().mean()
    torch.testing.assert_close(make("vsd", prior, prior.encode_condition()).lora_loss(x, generator()), expected)


@pytest.mark.parametrize("steps", [1, 4])
def test_target_of_sdi(mixture, x, steps):
    """By Euler steps in the variable x / sqrt(alpha_bar) and the noise level sigma, where DDIM is d x / d sigma = noise."""
    condition, time = mixture.encode_condition("right", "left"), 600
    options = {"guidance_scale": 3.0, "inversion_guidance_scale": -2.0, "inversion_n_steps": steps, "inversion_eta": 0.0}
    sigma = (1 / mixture.alpha_bar - 1).sqrt()

    def noise(y, t, scale):
        t = torch.full((len(y),), t)
        xt = y * mixture.alpha_bar[t].sqrt()[:, None]
        wanted, unwanted = (gaussian_noise(mixture, xt, t, mean) for mean in (RIGHT, LEFT))
        return unwanted + scale * (wanted - unwanted)

    times = [time * i // steps for i in range(steps + 1)]
    y = x / mixture.alpha_bar[0].sqrt()
    for now, then in pairwise(times):
        y = y + (sigma[then] - sigma[now]) * noise(y, now, -2.0)
    expected = y - sigma[time] * noise(y, time, 3.0)
    found = make("sdi", mixture, condition, **options).target_at(x, time, generator())
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


def test_the_inversion_with_fresh_noise_keeps_the_noise_level(mixture):
    """With eta = 1 the states of samples are as spread as the noisy density is: fresh noise takes a share, it adds none."""
    torch.manual_seed(0)
    x, time = mixture.sample(4000), 700
    state = ddim(x, time_grid(time, 50), mixture.encode_condition(), mixture, 1.0, generator(), eta=1.0)
    alpha_bar = mixture.alpha_bar[time]
    expected = alpha_bar * x.var(dim=0) + 1 - alpha_bar
    torch.testing.assert_close(state.var(dim=0), expected, atol=0.0, rtol=0.08)
    plain = ddim(x, time_grid(time, 50), mixture.encode_condition(), mixture, 1.0, generator())
    assert (state - plain).norm(dim=1).mean() > 0.3


def test_inversion_and_sampling_return_to_the_start(mixture):
    """Mean squared error below 1e-3 at 200 steps over all noise levels; the distance halves where steps are doubled."""
    torch.manual_seed(0)
    x, condition = mixture.sample(64), mixture.encode_condition()
    errors = []
    for steps in (50, 100, 200):
        times = time_grid(980, steps)
        there = ddim(x, times, condition, mixture, 1.0, generator())
        errors.append((ddim(there, times[::-1], condition, mixture, 1.0, generator()) - x).square().mean().item())
    assert errors[2] < 1e-3
    assert 3 < errors[0] / errors[1] < 5 and 3 < errors[1] / errors[2] < 5, errors
    assert 0.8 < there.std() < 1.2 and (there - x).square().mean() > 0.5, "the inversion did not go to noise"


@pytest.mark.parametrize(("time", "steps", "grid"), [(10, 4, [0, 2, 5, 8, 10]), (3, 10, [0, 1, 2, 3]), (1, 1, [0, 1])])
def test_time_grid(time, steps, grid):
    assert time_grid(time, steps) == grid


def lead(loss_type, prior, condition, particles=64, steps=400, lr=0.03, wrong=lambda gradient: gradient, **options):
    """Points that a loss has led; wrong: what is planted into its gradient."""
    torch.manual_seed(0)
    loss = make(loss_type, prior, condition, **options)
    right = loss.gradient
    loss.gradient = lambda *args: wrong(right(*args))
    return optimize(loss, OptimizeOptions(steps=steps, lr=lr, particles=particles, seed=0))


def arrived(points, mean, bound=1.0):
    """Whether nine in ten of the points are that near a mean."""
    return ((points - torch.tensor(mean)).norm(dim=1) < bound).float().mean().item() > 0.9


@pytest.mark.parametrize("mistake", [None, "sign", "swapped"])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_the_class_asked_for_is_reached(mixture, loss_type, mistake):
    """With the gradient's sign or the two conditions exchanged it is not: planted mistakes are seen."""
    condition = mixture.encode_condition("right", "sides")
    options = {"lora_lr": 1e-2, "lora_rank": 32} if loss_type == "vsd" else {}
    if mistake == "swapped":
        condition = Condition(condition.negative, condition.positive)
    wrong = torch.neg if mistake == "sign" else (lambda gradient: gradient)
    points = lead(loss_type, mixture, condition, steps=200 if mistake else 400, wrong=wrong, guidance_scale=2.0, **options)
    assert arrived(points, RIGHT) == (mistake is None), points


def test_sds_goes_to_a_mode(mixture):
    """Of one Gaussian the points end at its mean; of far ones each at one of theirs, and the spread around it is lost.

    It is a mode of the density at all noise levels together, which lies a little towards the middle of all modes.
    """
    points = lead("sds", mixture, mixture.encode_condition("up"), guidance_scale=1.0)
    assert arrived(points, UP, 0.3)
    far = Mixture([(-6.0, 0.0), (6.0, 0.0), (0.0, 6.0)], STD)
    points = lead("sds", far, far.encode_condition(), lr=0.1, guidance_scale=1.0)
    assert (nearest(points, far.means) < 1.0).all()
    own = torch.cdist(points, far.means).argmin(dim=1)
    assert len(own.unique()) == 3, "not every mode has points"
    for mode in range(3):
        assert (points[own == mode].var(dim=0) < 0.3 * STD**2).all()


@pytest.mark.slow
def test_particles_of_vsd_keep_the_spread(mixture):
    """The variance of the particles is the mixture's to 20 %, of one Gaussian and of two; SDS loses it."""
    for name in ("up", "sides"):
        real = mixture.sample(20000, name).var(dim=0)
        options = {"guidance_scale": 1.0, "lora_lr": 1e-2, "lora_rank": 64}
        points = lead("vsd", mixture, mixture.encode_condition(name), particles=512, steps=500, **options)
        share = points.var(dim=0) / real
        assert ((share > 0.8) & (share < 1.2)).all(), f"{name}: {share.tolist()} of the variance"
    lost = lead("sds", mixture, mixture.encode_condition("up"), guidance_scale=1.0)
    assert (lost.var(dim=0) < 0.2 * mixture.sample(20000, "up").var(dim=0)).all()


def test_a_target_of_sdi_is_kept(mixture):
    times_asked = []
    loss = make("sdi", mixture, mixture.encode_condition("up"), sdi_update_interval=5)
    right = mixture.network_noise
    mixture.network_noise = lambda *args: times_asked.append(args[1].max().item()) or right(*args)
    times = []
    for step in range(1, 12):
        before = len(times_asked)
        loss.gradient(torch.zeros(1, 2), step, 11, generator())
        times += [max(times_asked[before:])] if len(times_asked) > before else []
    assert times == [980, round(980 - 960 * 5 / 11), round(980 - 960 * 10 / 11)]
