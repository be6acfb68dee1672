"""Paths between noise and data, shared by the methods that follow them."""

from dataclasses import dataclass, field
from typing import Any

import torch

from src.base_model import BaseScheduler
from src.methods._schedules import sample_unit_times
from src.utils import expand_t


class LinearPathScheduler(BaseScheduler):
    """The straight path xt = t data + (1 - t) noise, whose velocity is data - noise at every t in [0, 1].

    Time rises from noise (t = 0) to data (t = 1). Source: Liu et al., Flow Straight and Fast, arXiv:2209.03003, eq. 1.
    """

    t_noise = 0.0
    t_data = 1.0

    @dataclass
    class Config:
        time_distribution: str = field(
            default="uniform", metadata={"help": "how training times are drawn", "choices": ("uniform", "logit_normal")}
        )
        logit_mean: float = field(default=0.0, metadata={"help": "mean of the logit-normal times; above 0 is nearer the data"})
        logit_std: float = field(default=1.0, metadata={"help": "standard deviation of the logit-normal times"})

    def _setup(self, **kwargs: Any) -> None:
        self.config = self.Config(**kwargs)

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
