"""The variance-preserving path of DDPM (arXiv:2006.11239): its scheduler, and what all models share that follow it by DDIM.

With the cosine schedule of improved DDPM (arXiv:2102.09672) and v-prediction (arXiv:2202.00512).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.common.options import Options, option
from src.methods.shared.method import Method, PathScheduler
from src.utils import expand_t

PREDICTIONS = ("epsilon", "x0", "v")
SCHEDULES = ("linear", "cosine")
MIN_SIGNAL = 5e-3  # the least sqrt(alpha_bar) that an epsilon-prediction's error is divided by


def log_alpha_bar_table(schedule: str, steps: int, shift: float = 1.0) -> np.ndarray:
    """log alpha_bar of steps 0..steps: (steps + 1,), float64, 0 first.

    shift multiplies the noise level sqrt(1 / alpha_bar - 1) of every step (simple diffusion, arXiv:2301.11093, sec. 3.1).

    "cosine": arXiv:2102.09672, eq. 17, with beta at most 0.999. "linear": beta from 1e-4 to 0.02 in 1000 steps, as DDPM has
    it; for another number of steps log alpha_bar is read between those 1000, so that t means the same noise.
    """
    if schedule == "linear":
        table = np.concatenate([[0.0], np.log1p(-np.linspace(1e-4, 0.02, 1000)).cumsum()])
        table = np.interp(np.linspace(0, 1000, steps + 1), np.arange(1001), table)
    else:
        s = 0.008
        f = np.cos((np.arange(steps + 1) / steps + s) / (1 + s) * np.pi / 2) ** 2
        table = np.concatenate([[0.0], np.log(np.maximum(f[1:] / f[:-1], 1 - 0.999)).cumsum()])
    return -np.log1p(shift**2 * np.expm1(-table))


class VPPathScheduler(PathScheduler):
    """The variance-preserving path xt = sqrt(alpha_bar) data + sqrt(1 - alpha_bar) noise, in num_train_timesteps steps.

    Time is t = k / num_train_timesteps for step k: from noise (t = 1) to data (t = 0, where alpha_bar = 1). Other t are
    rounded to the nearest step. Source: arXiv:2006.11239, eq. 4.
    """

    t_noise = 1.0
    t_data = 0.0

    @dataclass
    class Config(Options):
        prediction: str = option("v", "what the network learns to predict", choices=PREDICTIONS)
        schedule: str = option("cosine", "how alpha_bar falls with time", choices=SCHEDULES)
        shift: float = option(1.0, "factor of the schedule's noise levels; above 1 suits larger images", above=0)
        eta: float = option(0.0, "noise added in sampling: 0 is DDIM, 1 is DDPM's ancestral sampling", minimum=0, maximum=1)

    def _setup(self, **kwargs: Any) -> None:
        super()._setup(**kwargs)
        if self.num_train_timesteps < 1:
            raise ValueError(f"expected num_train_timesteps of at least 1, got {self.num_train_timesteps}")
        table = torch.from_numpy(log_alpha_bar_table(self.config.schedule, self.num_train_timesteps, self.config.shift)).float()
        self.register_buffer("log_alpha_bar", table, persistent=False)  # the logarithm keeps both ends exact in float32

    def log_alpha_bar_at(self, t: Tensor, x: Tensor) -> Tensor:
        """log alpha_bar at t (B,), shaped (B, 1, ...) to go with x."""
        steps = (t * self.num_train_timesteps).round().long().clamp(0, self.num_train_timesteps)
        return expand_t(self.log_alpha_bar[steps], x)

    def signal_and_noise(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """a = sqrt(alpha_bar) and s = sqrt(1 - alpha_bar) at t (B,), shaped (B, 1, ...) to go with x."""
        return parts(self.log_alpha_bar_at(t, x))

    def noise_level(self, t: Tensor) -> Tensor:
        """sigma = sqrt(1 / alpha_bar - 1), for xt / sqrt(alpha_bar) = data + sigma noise."""
        return (-self.log_alpha_bar_at(t, t)).expm1().sqrt()

    def sample_timesteps(self, batch_size: int, device: torch.device | str) -> Tensor:
        """Steps 1..num_train_timesteps, equally likely, as times (B,) in (0, 1]."""
        return torch.randint(1, self.num_train_timesteps + 1, (batch_size,), device=device) / self.num_train_timesteps

    def forward_process(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        a, s = self.signal_and_noise(t, data)
        return a * data + s * noise

    def get_target(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noise, the data, or v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) data (arXiv:2202.00512, sec. 4)."""
        if self.config.prediction != "v":
            return noise if self.config.prediction == "epsilon" else data
        a, s = self.signal_and_noise(t, data)
        return a * noise - s * data

    def data_and_noise(
        self, xt: Tensor, pred: Tensor, t: Tensor | None, log_alpha_bar: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The data and the noise, both (B, ...), that pred says xt at t (B,), or at this log alpha_bar, is made of.

        Data from an epsilon-prediction are (xt - s epsilon) / a, whose error has no bound where a goes to 0. There a is taken
        as MIN_SIGNAL, which shrinks the estimate: of 1000 steps, the last three of the cosine schedule, none of the linear.
        For few calls the predictions v and x0 are the better ones.
        """
        a, s = parts(self.log_alpha_bar_at(t, xt) if log_alpha_bar is None else log_alpha_bar)
        if self.config.prediction == "epsilon":
            return (xt - s * pred) / a.clamp(min=MIN_SIGNAL), pred
        if self.config.prediction == "x0":
            return pred, (xt - a * pred) / s.clamp(min=1e-8)
        return a * xt - s * pred, s * xt + a * pred

    def reverse_process_step(self, xt: Tensor, pred: Tensor, t: Tensor, t_next: Tensor, noise: Tensor | None = None) -> Tensor:
        """One DDIM step (arXiv:2010.02502, eq. 12, with the sigma of eq. 16) from xt (B, ...) at t (B,) to any earlier t_next.

        noise (B, ...) is what eta > 0 adds, drawn here if absent. None is added where t_next is 0.
        """
        data, epsilon = self.data_and_noise(xt, pred, t)
        (_, s), (a_next, s_next) = self.signal_and_noise(t, xt), self.signal_and_noise(t_next, xt)
        beta = -(self.log_alpha_bar_at(t, xt) - self.log_alpha_bar_at(t_next, xt)).expm1()
        share = self.config.eta**2 * beta / s.square().clamp(min=1e-12)  # sigma^2 as a share of 1 - alpha_bar at t_next
        x = a_next * data + s_next * (1 - share).clamp(min=0).sqrt() * epsilon
        if self.config.eta == 0:
            return x
        return x + s_next * share.sqrt() * (torch.randn_like(xt) if noise is None else noise)


def parts(log_alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """a = sqrt(alpha_bar) and s = sqrt(1 - alpha_bar)."""
    return (log_alpha_bar / 2).exp(), (-log_alpha_bar.expm1()).sqrt()


class DDIMModel(Method):
    """A network of the variance-preserving path and its sampler. A subclass says how it learns: compute_loss."""

    Scheduler = VPPathScheduler
    takes_labels = takes_guidance = True

    @dataclass
    class Config(VPPathScheduler.Config):
        time_scale: float = option(1000.0, "the network's time embedding sees time_scale * t")

    def predict(self, xt: Tensor, t: Tensor, **kwargs: Any) -> Tensor:
        """The network's epsilon, x0 or v (B, ...) at xt (B, ...) and t (B,) in [0, 1]."""
        return self.network(xt, t * self.config.time_scale, **kwargs)

    @property
    def parameterization(self) -> str:
        config = self.config
        return f"{config.prediction}, {config.schedule}, shift {config.shift:g}, time_scale {config.time_scale:g}"

    def grid_time(self, index: Any, steps: Any) -> Any:
        """Time number index, from data (0) to noise (steps), of `steps` equal steps, rounded to a step of the path.

        Both whole numbers, or int64 tensors.
        """
        total = self.scheduler.num_train_timesteps
        return (2 * total * index + steps) // (2 * steps) / total

    def time_grid(self, steps: int) -> Tensor:
        """steps + 1 times from 1 to 0, equally spaced to rounding, float32. ValueError unless 1..num_train_timesteps steps."""
        total = self.scheduler.num_train_timesteps
        if not 1 <= steps <= total:
            raise ValueError(f"expected from 1 to num_train_timesteps = {total} sampling steps, got {steps}")
        return torch.tensor([self.grid_time(i, steps) for i in range(steps, -1, -1)], device=self.device)

    def sampling_step(self, x: Tensor, t: Tensor, t_next: Tensor, noise: Callable[[], Tensor], **kwargs: Any) -> Tensor:
        """One DDIM step (arXiv:2010.02502); with eta > 0 fresh noise is added, but not in the last one."""
        pred = self.steered(x, t, **kwargs).to(x.dtype)
        return self.scheduler.reverse_process_step(x, pred, t, t_next, noise() if self.config.eta > 0 else None)
