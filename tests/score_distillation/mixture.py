"""Points in the plane whose density is a mixture of Gaussians: a prior that knows its score exactly, and can be adapted."""

import copy

import torch
from torch import nn

from src.score_distillation.prior import Condition, Prior

TIMES = 1000


class Correction(nn.Module):
    """What the adapters of a network are here: a small one of its own, added to the exact noise; zero before it learns."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, xt: torch.Tensor, signal: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([xt, signal, level], dim=1))


class Mixture(Prior):
    """Equally likely Gaussians of one standard deviation; a class is some of them, and no class is all.

    Args:
        means: (K, 2).
        classes: name -> numbers of its Gaussians.
    """

    def __init__(self, means, std: float, classes: dict[str, list[int]] | None = None):
        self.means, self.std, self.classes = torch.tensor(means, dtype=torch.float32), std, classes or {}
        self.alpha_bar = (1 - torch.linspace(1e-4, 0.02, TIMES, dtype=torch.float64)).cumprod(0).float()
        self.shape, self.device, self.correction = (2,), torch.device("cpu"), None

    def encode_condition(self, wanted: str = "", negative: str = "") -> Condition:
        return Condition(self.weights(wanted), self.weights(negative))

    def weights(self, name: str) -> torch.Tensor:
        rows = self.classes.get(name, range(len(self.means)))
        return torch.tensor([[float(k in rows) for k in range(len(self.means))]])

    def network_noise(self, xt, t, embedding):
        signal, level = self.signal_and_noise(t, xt)
        variance = (signal * self.std) ** 2 + level**2
        differences = xt[:, None] - signal[:, None] * self.means  # (B, K, 2)
        share = torch.softmax(embedding.log() - differences.square().sum(dim=2) / (2 * variance), dim=1)
        noise = level * (share[..., None] * differences).sum(dim=1) / variance  # minus level times the score
        return noise if self.correction is None else noise + self.correction(xt, signal, level)

    def adapted(self, rank):
        other = copy.copy(self)
        other.correction = Correction(rank)
        return other, list(other.correction.parameters())

    def decode(self, latents):
        return latents

    def sample(self, count: int, name: str = "") -> torch.Tensor:
        rows = self.weights(name)[0].multinomial(count, replacement=True)
        return self.means[rows] + self.std * torch.randn(count, 2)


def nearest(x: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """The distance of points (B, 2) to the nearest of the means (K, 2): (B,)."""
    return torch.cdist(x, means).min(dim=1).values
