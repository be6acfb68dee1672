"""ADD: the distillation against closed forms, its two losses, and that a one-step start finds all modes."""

import math

import pytest
import torch

from src.methods.shared.discriminators import hinge_discriminator
from tests.helpers import SHAPE, tiny_model
from tests.methods import eight_gaussians
from tests.methods.oracles import GAUSSIAN, MIXTURE

ORACLES = pytest.mark.parametrize("oracle", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])


def exact_model(oracle, sign=1):
    """With an exact teacher, whose score has the wrong sign if asked for."""
    model = tiny_model("add")

    def denoised(x, sigma):
        level = sigma[:, None, None, None].double()
        return x + sign * level**2 * oracle.score(x, 1, level)

    model.teacher.denoised = denoised
    return model


def draws(count=64):
    torch.manual_seed(0)
    sigma = torch.linspace(0.05, 3, count).double()
    return torch.randn(count, *SHAPE).double(), torch.randn(count, *SHAPE).double(), sigma


def weight(sigma):
    return 0.5 / (sigma**2 + 0.25).sqrt()


@pytest.mark.slow
def test_a_one_step_start_that_misses_all_modes_finds_all_eight():
    options = {"distill_weight": 2.5 / 16, "distill_mean": 1.2}  # these points are four times as wide as images
    assert eight_gaussians.modes(eight_gaussians.student("add", **options), 1) == 0, "the start is the blurred mean"
    trained = eight_gaussians.train(eight_gaussians.student("add", **options), 500, batch=512)
    assert [eight_gaussians.modes(trained, nfe) for nfe in (1, 2, 4)] == [8, 8, 8]
    assert eight_gaussians.shares(trained, 1).sum() > 0.6


@ORACLES
def test_distillation_is_the_distance_to_the_best_denoiser(oracle):
    """And its gradient is that of the sample's side alone, 2 c (fake - target) / values."""
    fake, noise, sigma = draws()
    fake.requires_grad_()
    level = sigma[:, None, None, None]
    target = oracle.posterior_mean(fake.detach() + level * noise, 1, level)
    expected = weight(sigma) * (fake.detach() - target).square().flatten(1).mean(dim=1)
    for sign in (1, -1):
        losses = exact_model(oracle, sign).distillation(fake, noise, sigma)
        assert torch.allclose(losses, expected) == (sign == 1)
        (gradient,) = torch.autograd.grad(losses.sum(), fake)
        slope = 2 * weight(sigma)[:, None, None, None] * (fake.detach() - target) / math.prod(SHAPE)
        assert torch.allclose(gradient, slope) == (sign == 1)


def test_on_a_gaussian_samples_are_pulled_to_the_mean_on_average():
    """E over noise of fake - target is (fake - mean) sigma^2 / (sigma^2 + std^2); an error of sign drives them off."""
    (mean,), (std,) = GAUSSIAN.means, GAUSSIAN.stds
    for sign in (1, -1):
        fake = torch.full((512, *SHAPE), mean + 1.0).double().requires_grad_()
        torch.manual_seed(0)
        sigma = torch.full((512,), 0.7).double()
        losses = exact_model(GAUSSIAN, sign).distillation(fake, torch.randn_like(fake), sigma)
        (gradient,) = torch.autograd.grad(losses.sum(), fake)
        slope = 2 * weight(sigma[0]) * sign * 0.49 / (0.49 + std**2) / math.prod(SHAPE)
        assert gradient.mean().item() == pytest.approx(slope.item(), rel=0.01)


def test_high_levels_count_less():
    model = exact_model(GAUSSIAN)
    fake, noise, sigma = draws()
    model.teacher.denoised = lambda x, sigma: fake + 1
    torch.testing.assert_close(model.distillation(fake, noise, sigma), weight(sigma))
    assert weight(torch.tensor(80.0)) < 0.01 and weight(torch.tensor(0.01)) > 0.99


def test_levels_of_the_teacher_are_log_normal_and_the_noise_is_new():
    model = tiny_model("add", distill_mean=0.3, distill_std=0.5)
    torch.manual_seed(0)
    noise, sigma = model.teacher_draws(torch.zeros(4000, 2))
    assert sigma.log().mean().item() == pytest.approx(0.3, abs=0.03)
    assert sigma.log().std().item() == pytest.approx(0.5, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    steps = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double().square()  # of Stable Diffusion's path
    alpha_bar = (1 - steps).cumprod(0)
    levels = (0.5 * ((1 - alpha_bar) / alpha_bar).sqrt()).log()
    assert levels.mean().item() == pytest.approx(tiny_model("add").config.distill_mean, abs=0.05)
    assert levels.std().item() == pytest.approx(tiny_model("add").config.distill_std, abs=0.05)


def test_the_loss_is_hinge_and_distillation():
    """With planted logits and distillation; the teacher has no part in the discriminator's loss."""
    a, b = torch.tensor([[0.3], [1.4]]), torch.tensor([[-1.7], [0.6]])
    data, noise = torch.randn(2, 2, *SHAPE)
    for distill_weight in (0.0, 2.5):
        model = tiny_model("add", r1_gamma=0.0, distill_weight=distill_weight)
        discriminator = model.train_only["discriminator"]
        discriminator.features = lambda x, labels=None: [x]
        discriminator.forward = lambda features, sigma, labels=None: [a if torch.equal(features[0], data) else b]
        model.distillation = lambda fake, noise, sigma, labels: torch.tensor([0.2, 0.4])
        got = model.compute_loss(data, noise, group="discriminator")
        torch.testing.assert_close(got, hinge_discriminator([a], [b]).mean())
        torch.testing.assert_close(got, torch.tensor((0.7 + 0.0 + 0.0 + 1.6) / 2))
        torch.testing.assert_close(model.compute_loss(data, noise), torch.tensor((1.7 - 0.6) / 2 + distill_weight * 0.3))


def test_the_teacher_is_asked_once_and_gets_no_gradient():
    model, calls = tiny_model("add").train(), []
    denoised = model.teacher.denoised
    model.teacher.denoised = lambda x, sigma: calls.append((x.requires_grad, torch.is_grad_enabled())) or denoised(x, sigma)
    model.compute_loss(*torch.randn(2, 4, *SHAPE)).backward()
    assert calls.count((False, False)) == 1 and len(calls) == 2, "once to distill, once for the discriminator's features"
    assert (True, True) in calls
    assert all(p.grad is None for p in model.teacher.parameters())
