"""What all models share that learn the velocity of the straight path, and nothing else, and follow it with Euler steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from tqdm import tqdm

from src.methods._base import Method, draw_noise
from src.methods._paths import LinearPathScheduler
from src.methods._schedules import uniform_grid


class VelocityModel(Method):
    """A network that gives the velocity at (xt, t). A subclass says how it learns: compute_loss."""

    Scheduler = LinearPathScheduler

    @dataclass
    class Config(LinearPathScheduler.Config):
        time_scale: float = field(default=1000.0, metadata={"help": "the network's time embedding sees time_scale * t"})

    def predict(self, xt: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The velocity at xt (B, 3, H, W) and t (B,) in [0, 1]."""
        return self.network(xt, t * self.config.time_scale, **kwargs)

    @property
    def parameterization(self) -> str:
        return f"velocity, time_scale {self.config.time_scale:g}"

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
