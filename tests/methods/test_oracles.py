"""The closed forms themselves, against numerical integrals and derivatives."""

import pytest
import torch

from tests.methods.oracles import GAUSSIAN, MIXTURE, Mixture

BOTH = pytest.mark.parametrize("oracle", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
POINTS = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)


def density(oracle, y):
    return sum(
        weight * torch.exp(-(((y - mean) / std) ** 2) / 2) / (std * (2 * torch.pi) ** 0.5)
        for weight, mean, std in zip(oracle.weights, oracle.means, oracle.stds, strict=True)
    )


@BOTH
def test_posterior_mean_is_bayes_rule(oracle):
    data = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    joint = density(oracle, data) * torch.exp(-(((POINTS[:, None] - 0.8 * data) / 0.5) ** 2) / 2)
    expected = (joint * data).sum(1) / joint.sum(1)
    torch.testing.assert_close(oracle.posterior_mean(POINTS, 0.8, 0.5), expected)


@BOTH
def test_score_is_the_slope_of_the_log_density(oracle):
    h = 1e-4
    p = lambda x: (oracle.cdf(x + h, 0.8, 0.5) - oracle.cdf(x - h, 0.8, 0.5)).log()  # noqa: E731
    expected = (p(POINTS + h) - p(POINTS - h)) / (2 * h)
    torch.testing.assert_close(oracle.score(POINTS, 0.8, 0.5), expected, atol=1e-5, rtol=1e-5)


@BOTH
def test_flow_solves_its_differential_equation(oracle):
    """With alpha = 1, dx / dsigma = -sigma score (EDM, eq. 1)."""
    h = 1e-5
    slope = (oracle.flow(POINTS, 1, 0.7, 1, 0.7 + h) - oracle.flow(POINTS, 1, 0.7, 1, 0.7 - h)) / (2 * h)
    torch.testing.assert_close(slope, -0.7 * oracle.score(POINTS, 1, 0.7), atol=1e-6, rtol=1e-6)


def test_affine_flow_is_the_flow_of_equal_probability():
    torch.testing.assert_close(Mixture.flow(GAUSSIAN, POINTS, 0.2, 0.9), GAUSSIAN.flow(POINTS, 0.2, 0.9))


@BOTH
def test_draws_have_the_distribution(oracle):
    uniform = oracle.cdf(oracle.data((20000,)), 1, 0).sort().values
    assert (uniform - torch.linspace(0, 1, 20000)).abs().max() < 0.015
