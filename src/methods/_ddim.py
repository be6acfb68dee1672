"""What all models share that predict noise, data or v on the variance-preserving path and go back by DDIM steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from src.methods._base import Method, draw_noise
from src.methods._vp_path import VPPathScheduler

Number = TypeVar("Number", int, torch.Tensor)


class DDIMModel(Method):
    """A network of the variance-preserving path and its sampler. A subclass says how it learns: compute_loss."""

    Scheduler = VPPathScheduler

    @dataclass
    class Config(VPPathScheduler.Config):
        time_scale: float = field(default=1000.0, metadata={"help": "the network's time embedding sees time_scale * t"})

    def predict(self, xt: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The network's epsilon, x0 or v (B, ...) at xt (B, ...) and t (B,) in [0, 1]."""
        return self.network(xt, t * self.config.time_scale, **kwargs)

    @property
    def parameterization(self) -> str:
        return f"{self.config.prediction}, {self.config.schedule}, time_scale {self.config.time_scale:g}"

    def grid_time(self, index: Number, steps: Number) -> float | torch.Tensor:
        """Time number index, from data (0) to noise (steps), of `steps` equal steps, rounded to a step of the path.

        Both whole numbers, or int64 tensors.
        """
        total = self.scheduler.num_train_timesteps
        return (2 * total * index + steps) // (2 * steps) / total

    def time_grid(self, steps: int) -> torch.Tensor:
        """steps + 1 times from 1 to 0, equally spaced to rounding, float32. ValueError unless 1..num_train_timesteps steps."""
        total = self.scheduler.num_train_timesteps
        if not 1 <= steps <= total:
            raise ValueError(f"expected from 1 to num_train_timesteps = {total} sampling steps, got {steps}")
        return torch.tensor([self.grid_time(i, steps) for i in range(steps, -1, -1)], device=self.device)

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
        """num_inference_timesteps DDIM steps, one network call each, at most num_train_timesteps (else ValueError).

        Returns images (B, 3, H, W), or with return_traj the list of all num_inference_timesteps + 1 states. `seeds`, one a
        image, fix each image's noise, also that of eta > 0.
        """
        scheduler = self.scheduler
        grid = self.time_grid(num_inference_timesteps)
        x = draw_noise(shape, self.device, seeds)
        states = [x]
        for i, (t, t_next) in enumerate(tqdm(list(pairwise(grid)), disable=not verbose), start=1):
            t, t_next = t.expand(shape[0]), t_next.expand(shape[0])
            pred = self.predict(x, t, **kwargs).to(x.dtype)
            added = i < num_inference_timesteps and scheduler.config.eta > 0
            noise = draw_noise(shape, self.device, seeds, draw=i) if added else torch.zeros_like(x)
            x = scheduler.reverse_process_step(x, pred, t, t_next, noise)
            states.append(x)
        return states if return_traj else x
