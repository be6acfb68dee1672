"""Noise levels as time (EDM, Karras et al., arXiv:2206.00364): the scheduler, denoisers, and consistency models."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from src.common.options import Options, option
from src.methods.shared.method import Method, PathScheduler
from src.methods.shared.straight_path import STRAIGHT_TIME_SCALE, straight_parameterization
from src.utils import expand_t

KARRAS_RHO = 7.0


@dataclass
class DenoiserOptions(Options):
    """The ends of the Karras path, the scale of the data on it, and what the network is asked there."""

    sigma_min: float = option(0.002, "least noise level of training and of grids", minimum=0)
    sigma_max: float = option(80.0, "noise level that sampling starts from", minimum=0)
    sigma_data: float = option(0.5, "standard deviation of the data", above=0)
    preconditioning: str = option("edm", "flow: the network gives the velocity, as a rectified flow's", choices=("edm", "flow"))
    time_scale: float = option(1.0, "the time embedding sees so many times ln(sigma) / 4, or 1000 / (1 + sigma) of flow")

    def validate(self) -> None:
        super().validate()
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got {self.sigma_min:g} and {self.sigma_max:g}")


class KarrasPathScheduler(PathScheduler):
    """Noise added to the data, xt = data + t noise, where t is the noise level: from sigma_max to 0. The data are predicted."""

    t_noise = 80.0  # of the default options; an instance has its own sigma_max
    t_data = 0.0

    @dataclass
    class Config(DenoiserOptions):
        P_mean: float = option(-1.2, "mean of the logarithm of training noise levels")
        P_std: float = option(1.2, "standard deviation of that logarithm", minimum=0)

    def _setup(self, **kwargs: Any) -> None:
        super()._setup(**kwargs)
        self.t_noise = self.config.sigma_max

    def sample_timesteps(self, batch_size: int, device: torch.device | str) -> Tensor:
        """Log-normal noise levels (EDM table 1), cut to [sigma_min, sigma_max]."""
        config = self.config
        levels = (config.P_mean + config.P_std * torch.randn(batch_size, device=device)).exp()
        return levels.clamp(config.sigma_min, config.sigma_max)

    def forward_process(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return data + expand_t(t, data) * noise

    def reverse_process_step(self, xt: Tensor, pred: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """One Euler step of the probability flow (EDM eq. 1 with sigma(t) = t), pred being the denoised data."""
        return xt + expand_t((t_next - t) / t, xt) * (xt - pred)

    def get_target(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return data

    def noise_level(self, t: Tensor) -> Tensor:
        return t


class Denoiser(Method):
    """A model whose network, preconditioned, names the clean data at every noise level. A subclass says how it learns."""

    Scheduler = KarrasPathScheduler
    Config = KarrasPathScheduler.Config
    boundary = 0.0  # the noise level at which the model is the identity

    @property
    def parameterization(self) -> str:
        config = self.config
        if config.preconditioning == "flow":
            return straight_parameterization("velocity", STRAIGHT_TIME_SCALE * config.time_scale)
        return f"edm, sigma_data {config.sigma_data:g}, time_scale {config.time_scale:g}"

    def predict(self, xt: Tensor, t: Tensor, **kwargs: Any) -> Tensor:
        """The clean data D(xt; sigma), shape and dtype of xt (B, ...), at noise levels t (B,). kwargs: for the network."""
        return self.preconditioned(partial(self.network, **kwargs), xt, t)

    def preconditioned(self, network: Callable[[Tensor, Tensor], Tensor], xt: Tensor, sigma: Tensor) -> Tensor:
        """D(xt; sigma) = c_skip xt + c_out F(c_in xt; time_scale c_noise), EDM's eq. 7, of a network F of state and time.

        preconditioning "edm" has the factors of EDM's table 1. "flow" has those with which F is the velocity of the straight
        path at time t = 1 / (1 + sigma): c_in = t and c_noise = 1000 t lead onto the path, c_skip = t and c_out = 1 - t from
        there to the data. D(x; boundary) = x is exact, as consistency models need (arXiv:2303.01469, app. C).
        """
        above, level, sigma_data = expand_t(sigma - self.boundary, xt), expand_t(sigma, xt), self.config.sigma_data
        if self.config.preconditioning == "flow":
            c_skip, c_out, c_in = 1 / (1 + above), above / (1 + above), 1 / (1 + level)
            c_noise = STRAIGHT_TIME_SCALE / (1 + sigma)
        else:
            c_skip = sigma_data**2 / (above**2 + sigma_data**2)
            c_in = 1 / (level**2 + sigma_data**2).sqrt()
            c_out = sigma_data * above * c_in
            c_noise = sigma.clamp(min=1e-20).log() / 4
        return c_skip * xt + c_out * network((c_in * xt).to(xt.dtype), self.config.time_scale * c_noise).to(xt.dtype)

    def first_state(self, noise: Tensor, grid: Tensor) -> Tensor:
        return grid[0] * noise

    def edm_weight(self, sigma: Tensor) -> Tensor:
        """What a squared error at noise levels sigma (B,) counts: lambda(sigma) of EDM, table 1, 1 / c_out^2."""
        if self.config.preconditioning == "flow":
            return ((1 + sigma) / sigma) ** 2
        sigma_data = self.config.sigma_data
        return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2

    def progress(self, t: Tensor) -> Tensor:
        """How far the levels t are on the way from noise (0) to data (1), in steps of the Karras grid."""
        return 1 - t ** (1 / KARRAS_RHO) / self.config.sigma_max ** (1 / KARRAS_RHO)


@dataclass
class ConsistencyOptions(DenoiserOptions):
    mid_sigma: float = option(0.821, "noise level of the second of two calls", minimum=0)
    mid_span: float = option(3.0, "more calls: levels between mid_sigma times and divided by this", minimum=1)

    def validate(self) -> None:
        super().validate()
        low, high = self.mid_sigma / self.mid_span, self.mid_sigma * self.mid_span
        if not self.sigma_min <= low <= high <= self.sigma_max:
            within = f"[{self.sigma_min:g}, {self.sigma_max:g}], got {low:g} and {high:g}"
            raise ValueError(f"expected mid_sigma / mid_span and mid_sigma * mid_span within {within}")

    def levels(self, steps: int) -> list[float]:
        """The noise levels of a sampler of `steps` calls: sigma_max, then geometrically around mid_sigma."""
        if steps < 1:
            raise ValueError(f"expected at least 1 step, got {steps}")
        count = steps - 1
        exponents = [0.0] if count == 1 else [1 - 2 * i / (count - 1) for i in range(count)]
        return [self.sigma_max] + [self.mid_sigma * self.mid_span**exponent for exponent in exponents]


class ConsistencyModel(Denoiser):
    """A denoiser whose sampler names the clean image in one call, puts noise back, and names it again from a lower level."""

    takes_labels = takes_guidance = few_calls = True

    @dataclass
    class Config(ConsistencyOptions, KarrasPathScheduler.Config):
        pass

    def time_grid(self, steps: int) -> Tensor:
        """The levels of a sampler of so many calls, and the boundary: (steps + 1,), float32."""
        return torch.tensor([*self.config.levels(steps), self.boundary], device=self.device)

    def sampling_step(self, x: Tensor, t: Tensor, t_next: Tensor, noise: Callable[[], Tensor], **kwargs: Any) -> Tensor:
        """To the data and, with new noise, back to the lower noise level t_next (arXiv:2303.01469, algorithm 1)."""
        data = self.steered(x, t, **kwargs).to(x.dtype)
        return data + expand_t((t_next**2 - self.boundary**2).clamp(min=0).sqrt(), x) * noise()
