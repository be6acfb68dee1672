"""Closed forms that methods are held against: data whose coordinates are independent, each a mixture of Gaussians.

Everywhere x = alpha data + sigma noise with standard normal noise, elementwise for tensors x of any shape; alpha and sigma are
numbers or tensors that broadcast with x. EDM has alpha = 1, the straight path alpha = t and sigma = 1 - t.
"""

import math
from dataclasses import dataclass

import torch


def tensor(value) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


@dataclass(frozen=True)
class Mixture:
    """Data drawn from N(mean, std^2) of one of the components, with these weights (which add up to 1)."""

    means: tuple[float, ...]
    stds: tuple[float, ...]
    weights: tuple[float, ...]

    def components(self, x, alpha, sigma):
        """Of x, component by component (first axis): deviation from the mean, variance, means of the data, their stds."""
        x, alpha, sigma = tensor(x), tensor(alpha), tensor(sigma)
        means, stds = (tensor(values).reshape(-1, *[1] * x.ndim) for values in (self.means, self.stds))
        return x - alpha * means, alpha**2 * stds**2 + sigma**2, means, stds

    def data(self, shape, seed=0) -> torch.Tensor:
        """Draws of the data, float64."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(tensor(self.weights), math.prod(shape), True, generator=generator).reshape(shape)
        return tensor(self.means)[which] + tensor(self.stds)[which] * torch.randn(shape, generator=generator).double()

    def posterior_mean(self, x, alpha, sigma) -> torch.Tensor:
        """E[data | alpha data + sigma noise = x]: the best denoiser."""
        deviation, variance, means, stds = self.components(x, alpha, sigma)
        logits = tensor(self.weights).log().reshape(means.shape) - variance.log() / 2 - deviation**2 / variance / 2
        return (logits.softmax(0) * (means + tensor(alpha) * stds**2 / variance * deviation)).sum(0)

    def score(self, x, alpha, sigma) -> torch.Tensor:
        """d log p(x) / dx, by Tweedie's formula; sigma above 0."""
        return (tensor(alpha) * self.posterior_mean(x, alpha, sigma) - tensor(x)) / tensor(sigma) ** 2

    def cdf(self, x, alpha, sigma) -> torch.Tensor:
        """P(alpha data + sigma noise <= x)."""
        deviation, variance, means, _ = self.components(x, alpha, sigma)
        return (tensor(self.weights).reshape(means.shape) * torch.special.ndtr(deviation / variance.sqrt())).sum(0)

    def flow(self, x, alpha, sigma, alpha_next=1.0, sigma_next=0.0) -> torch.Tensor:
        """Where the probability flow takes x from (alpha, sigma): in one dimension, to the point of equal probability below."""
        expected = self.cdf(x, alpha, sigma)
        low, high = torch.full_like(expected, -1e3), torch.full_like(expected, 1e3)
        for _ in range(70):
            middle = (low + high) / 2
            below = self.cdf(middle, alpha_next, sigma_next) < expected
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


class Gaussian(Mixture):
    """Data N(mean, std^2), whose flow is an affine map."""

    def __init__(self, mean: float, std: float):
        super().__init__((mean,), (std,), (1.0,))

    def flow(self, x, alpha, sigma, alpha_next=1.0, sigma_next=0.0) -> torch.Tensor:
        deviation, variance, means, stds = (part[0] for part in self.components(x, alpha, sigma))
        return alpha_next * means + ((alpha_next**2 * stds**2 + sigma_next**2) / variance).sqrt() * deviation


GAUSSIAN = Gaussian(0.3, 0.4)
MIXTURE = Mixture((-0.6, 0.5), (0.25, 0.15), (0.4, 0.6))
