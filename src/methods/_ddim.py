"""What all models share that predict noise, data or v on the variance-preserving path and go back by DDIM steps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from src.methods._base import Method
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
        config = self.config
        return f"{config.prediction}, {config.schedule}, shift {config.shift:g}, time_scale {config.time_scale:g}"

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

    def sampling_step(
        self, x: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor, noise: Callable[[], torch.Tensor], **kwargs: Any
    ) -> torch.Tensor:
        """One DDIM step (arXiv:2010.02502); with eta > 0 fresh noise is added, but not in the last one."""
        pred = self.predict(x, t, **kwargs).to(x.dtype)
        return self.scheduler.reverse_process_step(x, pred, t, t_next, noise() if self.scheduler.config.eta > 0 else None)
