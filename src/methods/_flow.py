"""What all models share that learn the velocity of the straight path, and nothing else, and follow it with Euler steps."""

from dataclasses import dataclass, field
from typing import Any

import torch

from src.methods._base import Method
from src.methods._paths import LinearPathScheduler, as_velocity


class VelocityModel(Method):
    """A network that gives the velocity at (xt, t). A subclass says how it learns: compute_loss."""

    Scheduler = LinearPathScheduler

    @dataclass
    class Config(LinearPathScheduler.Config):
        time_scale: float = field(default=1000.0, metadata={"help": "the network's time embedding sees time_scale * t"})

    def predict(self, xt: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The velocity at xt (B, 3, H, W) and t (B,) in [0, 1]."""
        config = self.config
        return as_velocity(self.network(xt, t * config.time_scale, **kwargs), xt, t, config.prediction)

    @property
    def parameterization(self) -> str:
        return f"{self.config.prediction} of the straight path, time_scale {self.config.time_scale:g}"
