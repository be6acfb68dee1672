"""Noise levels as time (EDM, Karras et al., arXiv:2206.00364): the scheduler, the grids, and what all denoisers share.

A preconditioned network names the clean data.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from src.base_model import BaseScheduler
from src.common.options import Options
from src.methods.shared.method import Method
from src.methods.shared.straight_path import STRAIGHT_TIME_SCALE, straight_parameterization
from src.utils import expand_t

KARRAS_RHO = 7.0
PRECONDITIONINGS = ("edm", "flow")


@dataclass
class KarrasLevels(Options):
    """The ends of the Karras path, and the scale of the data on it."""

    sigma_min: float = field(default=0.002, metadata={"help": "least noise level of training and of grids", "minimum": 0})
    sigma_max: float = field(default=80.0, metadata={"help": "noise level that sampling starts from", "minimum": 0})
    sigma_data: float = field(default=0.5, metadata={"help": "standard deviation of the data", "above": 0})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got {self.sigma_min:g} and {self.sigma_max:g}")


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

    def noise_level(self, t: torch.Tensor) -> torch.Tensor:
        """sigma = t."""
        return t

    def progress(self, t: torch.Tensor) -> torch.Tensor:
        """How far the levels t are on the way from noise (0) to data (1), in steps of the Karras grid."""
        start = self.config.sigma_max ** (1 / KARRAS_RHO)
        return 1 - t ** (1 / KARRAS_RHO) / start


def denoise(
    network: Callable[..., torch.Tensor],
    xt: torch.Tensor,
    sigma: torch.Tensor,
    sigma_data: float,
    sigma_min: float = 0.0,
    time_scale: float = 1.0,
    preconditioning: str = "edm",
) -> torch.Tensor:
    """The preconditioned network F as denoiser: D(xt; sigma) = c_skip xt + c_out F(c_in xt; c_noise), EDM's eq. 7.

    preconditioning "edm" has the factors of EDM's table 1. "flow" has those with which F is the velocity of the straight path
    at time t = 1 / (1 + sigma): c_in = t and c_noise = 1000 t lead onto the path, c_skip = t and c_out = 1 - t from there to
    the data.

    With sigma_min above 0 the boundary D(x; sigma_min) = x is exact, as consistency models need (arXiv:2303.01469, app. C).

    Args:
        xt: (B, ...) at noise levels sigma (B,).
        time_scale: multiplies c_noise, which is ln(sigma) / 4 of EDM.
    """
    above, level = expand_t(sigma - sigma_min, xt), expand_t(sigma, xt)
    if preconditioning == "flow":
        c_skip, c_out, c_in = 1 / (1 + above), above / (1 + above), 1 / (1 + level)
        c_noise = STRAIGHT_TIME_SCALE / (1 + sigma)
    else:
        c_skip = sigma_data**2 / (above**2 + sigma_data**2)
        c_in = 1 / (level**2 + sigma_data**2).sqrt()
        c_out = sigma_data * above * c_in
        c_noise = sigma.clamp(min=1e-20).log() / 4
    return c_skip * xt + c_out * network((c_in * xt).to(xt.dtype), time_scale * c_noise).to(xt.dtype)


@dataclass
class DenoiserOptions:
    """A Config lists this class before its scheduler's Config."""

    preconditioning: str = field(
        default="edm",
        metadata={
            "help": "of the network; flow: it gives the velocity of the straight path, and starts as a rectified flow's does",
            "choices": PRECONDITIONINGS,
        },
    )
    time_scale: float = field(
        default=1.0, metadata={"help": "the time embedding sees so many times ln(sigma) / 4, or 1000 / (1 + sigma) of flow"}
    )


class Denoiser(Method):
    """A model whose network, preconditioned, names the clean data at every noise level; its Config has DenoiserOptions."""

    Scheduler = KarrasPathScheduler

    @property
    def boundary(self) -> float:
        """The noise level at which the model is the identity."""
        return 0.0

    @property
    def parameterization(self) -> str:
        config = self.config
        if config.preconditioning == "flow":
            return straight_parameterization("velocity", STRAIGHT_TIME_SCALE * config.time_scale)
        return f"edm, sigma_data {config.sigma_data:g}, time_scale {config.time_scale:g}"

    def predict(self, xt: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The clean data D(xt; sigma), shape and dtype of xt (B, ...), at noise levels t (B,). kwargs: for the network."""
        network, config = partial(self.network, **kwargs) if kwargs else self.network, self.config
        return denoise(network, xt, t, config.sigma_data, self.boundary, config.time_scale, config.preconditioning)

    def first_state(self, noise: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        return grid[0] * noise

    def edm_weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """What a squared error at noise levels sigma (B,) counts: lambda(sigma) of EDM, table 1, 1 / c_out^2."""
        if self.config.preconditioning == "flow":
            return ((1 + sigma) / sigma) ** 2
        sigma_data = self.config.sigma_data
        return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def karras_grid(
    sigma_max: float, sigma_min: float, steps: int, device: torch.device | str, rho: float = KARRAS_RHO
) -> torch.Tensor:
    """Noise levels of a sampler in `steps` steps, from sigma_max to 0, both exactly included: (steps + 1,), float32.

    The last but one is sigma_min where there are two steps or more. Source: EDM (arXiv:2206.00364), eq. 5.
    """
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = torch.linspace(start, end, steps, dtype=torch.float64) ** rho
    levels[0] = sigma_max
    return torch.cat([levels, torch.zeros(1)]).float().to(device)


def grid_of_calls(
    sigma_max: float, sigma_min: float, calls: int, device: torch.device | str, rho: float = KARRAS_RHO
) -> torch.Tensor:
    """Noise levels (calls + 1,), float32, from sigma_max to 0, both included, for a solver of one call per step.

    They are EDM's grid (arXiv:2206.00364, eq. 5) of one step more, without sigma_min: the step from there changes an image by
    less than 8 bits can hold, and would waste one of few calls. Raises ValueError where calls is below 1.
    """
    if calls < 1:
        raise ValueError(f"expected at least 1 sampling step, got {calls}")
    levels = karras_grid(sigma_max, sigma_min, calls + 1, device, rho)
    return torch.cat([levels[:-2], levels[-1:]])
