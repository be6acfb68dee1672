"""Rectified flow (Liu et al., ICLR 2023, arXiv:2209.03003), with logit-normal times (Esser et al., arXiv:2403.03206)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from tqdm import tqdm

from src.methods._base import Method, draw_noise, register
from src.methods._paths import LinearPathScheduler
from src.methods._schedules import uniform_grid
from src.utils import expand_t


@register("rectified_flow")
class RectifiedFlow(Method):
    """Learn the velocity of the straight path from noise to data; follow it with Euler steps."""

    Scheduler = LinearPathScheduler

    @dataclass
    class Config(LinearPathScheduler.Config):
        time_scale: float = field(default=1000.0, metadata={"help": "the network's time embedding sees time_scale * t"})

    def compute_loss(self, data: torch.Tensor, noise: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Mean squared error of the velocity (eq. 1 of the paper): data and noise (B, 3, H, W) -> scalar."""
        t = self.scheduler.sample_timesteps(data.shape[0], data.device)
        xt = self.scheduler.forward_process(data, noise, t)
        pred = self.predict(xt, t)
        losses = (pred.float() - self.scheduler.get_target(data, noise, t)).square().flatten(1).mean(dim=1)
        self.report_losses(t, losses)
        return losses.mean()

    def predict(self, xt: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The velocity at xt (B, 3, H, W) and t (B,) in [0, 1]."""
        return self.network(xt, t * self.config.time_scale, **kwargs)

    @property
    def parameterization(self) -> str:
        return f"velocity, time_scale {self.config.time_scale:g}"

    def denoised(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """x = data + sigma noise is xt / t at the time t where (1 - t) / t = sigma; the data are xt + (1 - t) velocity."""
        t = 1 / (1 + sigma)
        xt, left = expand_t(t, x) * x, expand_t(1 - t, x)
        return xt + left * self.predict(xt, t).to(x.dtype)

    @torch.no_grad()
    def sample(
        self,
        shape: tuple[int, ...],
        num_inference_timesteps: int = 20,
        return_traj: bool = False,
        verbose: bool = False,
        seeds: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Euler's method in num_inference_timesteps equal steps, one network call each.

        Returns images (B, 3, H, W), or with return_traj the list of all num_inference_timesteps + 1 states. `seeds`, one a
        image, fix each image's noise.
        """
        scheduler = self.scheduler
        x = draw_noise(shape, self.device, seeds)
        grid = uniform_grid(scheduler.t_noise, scheduler.t_data, num_inference_timesteps, self.device)
        states = [x]
        for t, t_next in tqdm(list(pairwise(grid)), disable=not verbose):
            t, t_next = t.expand(shape[0]), t_next.expand(shape[0])
            x = scheduler.reverse_process_step(x, self.predict(x, t, **kwargs).float(), t, t_next)
            states.append(x)
        return states if return_traj else x
