"""Paths between noise and data, shared by the methods that follow them."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from src.base_model import BaseScheduler
from src.methods._schedules import KARRAS_RHO, TIME_DISTRIBUTIONS, sample_unit_times
from src.utils import expand_t

FLOW_PREDICTIONS = ("velocity", "data")
MIN_LEFT = 0.05  # of the way to the data, that a step towards predicted data is divided by


class LinearPathScheduler(BaseScheduler):
    """The straight path xt = t data + (1 - t) noise, whose velocity is data - noise at every t in [0, 1].

    Time rises from noise (t = 0) to data (t = 1). Source: Liu et al., Flow Straight and Fast, arXiv:2209.03003, eq. 1.
    """

    t_noise = 0.0
    t_data = 1.0

    @dataclass
    class Config:
        prediction: str = field(
            default="velocity",
            metadata={"help": "what the network gives: the velocity, or the data it leads to", "choices": FLOW_PREDICTIONS},
        )
        time_distribution: str = field(
            default="uniform", metadata={"help": "how training times are drawn", "choices": TIME_DISTRIBUTIONS}
        )
        logit_mean: float = field(default=0.0, metadata={"help": "mean of the logit-normal times; above 0 is nearer the data"})
        logit_std: float = field(default=1.0, metadata={"help": "standard deviation of the logit-normal times"})

    def _setup(self, **kwargs: Any) -> None:
        self.config = self.Config(**kwargs)
        if self.config.prediction not in FLOW_PREDICTIONS:
            raise ValueError(f"expected prediction {' or '.join(FLOW_PREDICTIONS)}, got {self.config.prediction!r}")

    def sample_timesteps(self, batch_size: int, device: torch.device | str) -> torch.Tensor:
        config = self.config
        return sample_unit_times(config.time_distribution, batch_size, device, config.logit_mean, config.logit_std)

    def forward_process(self, data: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        t = expand_t(t, data)
        return t * data + (1 - t) * noise

    def reverse_process_step(self, xt: torch.Tensor, pred: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor) -> torch.Tensor:
        """One Euler step along the velocity pred."""
        return xt + expand_t(t_next - t, xt) * pred

    def get_target(self, data: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The velocity d xt / dt."""
        return data - noise


def as_velocity(output: torch.Tensor, xt: torch.Tensor, t: torch.Tensor, prediction: str) -> torch.Tensor:
    """What a network's output (B, ...) at xt (B, ...) and t (B,) says of the velocity of the straight path.

    It is the velocity itself, or, with prediction "data", leads to the data that the output is: (output - xt) / (1 - t), with
    1 - t at least 0.05 (Li and He, arXiv:2511.13720). Then one step from noise ends on what the network drew, without a
    remainder of the noise, which a small network is hard put to subtract from itself.
    """
    if prediction == "velocity":
        return output
    return (output - xt) / expand_t((1 - t).clamp(min=MIN_LEFT), xt)


@dataclass
class KarrasLevels:
    """The ends of the Karras path, and the scale of the data on it."""

    sigma_min: float = field(default=0.002, metadata={"help": "least noise level of training and of grids", "minimum": 0})
    sigma_max: float = field(default=80.0, metadata={"help": "noise level that sampling starts from", "minimum": 0})
    sigma_data: float = field(default=0.5, metadata={"help": "standard deviation of the data", "minimum": 0})

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got {self.sigma_min:g} and {self.sigma_max:g}")
        if self.sigma_data <= 0:
            raise ValueError(f"expected sigma_data above 0, got {self.sigma_data:g}")


class KarrasPathScheduler(BaseScheduler):
    """Noise added to the data, xt = data + t noise, where t is the noise level sigma: from sigma_max (noise) to 0 (data).

    What is predicted is the data itself. Source: Karras et al. (EDM), arXiv:2206.00364.
    """

    t_noise = 80.0  # of the default options; an instance has its own sigma_max
    t_data = 0.0

    @dataclass
    class Config(KarrasLevels):
        P_mean: float = field(default=-1.2, metadata={"help": "mean of the logarithm of training noise levels"})
        P_std: float = field(default=1.2, metadata={"help": "standard deviation of that logarithm", "minimum": 0})

    def _setup(self, **kwargs: Any) -> None:
        self.config = self.Config(**kwargs)
        self.t_noise = self.config.sigma_max

    def sample_timesteps(self, batch_size: int, device: torch.device | str) -> torch.Tensor:
        """Log-normal noise levels (EDM table 1), cut to [sigma_min, sigma_max]."""
        config = self.config
        levels = (config.P_mean + config.P_std * torch.randn(batch_size, device=device)).exp()
        return levels.clamp(config.sigma_min, config.sigma_max)

    def forward_process(self, data: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return data + expand_t(t, data) * noise

    def reverse_process_step(self, xt: torch.Tensor, pred: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor) -> torch.Tensor:
        """One Euler step of the probability flow (EDM eq. 1 with sigma(t) = t), pred being the denoised data."""
        return xt + expand_t((t_next - t) / t, xt) * (xt - pred)

    def get_target(self, data: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return data

    def progress(self, t: torch.Tensor) -> torch.Tensor:
        """How far the levels t are on the way from noise (0) to data (1), in steps of the Karras grid."""
        start = self.config.sigma_max ** (1 / KARRAS_RHO)
        return 1 - t ** (1 / KARRAS_RHO) / start


def denoise(
    network: nn.Module,
    xt: torch.Tensor,
    sigma: torch.Tensor,
    sigma_data: float,
    sigma_min: float = 0.0,
    time_scale: float = 1.0,
) -> torch.Tensor:
    """The network with EDM's preconditioning: D(xt; sigma) = c_skip xt + c_out F(c_in xt; c_noise), eq. 7 and table 1.

    With sigma_min above 0 the boundary D(x; sigma_min) = x is exact, as consistency models need (arXiv:2303.01469, app. C).

    Args:
        xt: (B, ...) at noise levels sigma (B,).
        time_scale: multiplies c_noise = ln(sigma) / 4.
    """
    above, level = expand_t(sigma - sigma_min, xt), expand_t(sigma, xt)
    c_skip = sigma_data**2 / (above**2 + sigma_data**2)
    c_in = 1 / (level**2 + sigma_data**2).sqrt()
    c_out = sigma_data * above * c_in
    c_noise = sigma.clamp(min=1e-20).log() / 4
    return c_skip * xt + c_out * network((c_in * xt).to(xt.dtype), time_scale * c_noise).to(xt.dtype)
