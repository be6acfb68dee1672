"""The straight path between noise and data: its scheduler, and what all models share that learn velocities on it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from src.base_model import BaseScheduler
from src.common.options import Options
from src.methods.shared.method import Method
from src.utils import expand_t

FLOW_PREDICTIONS = ("velocity", "data")
MIN_LEFT = 0.05  # of the way to the data, that a step towards predicted data is divided by
TIME_DISTRIBUTIONS = ("uniform", "logit_normal", "u_shaped")
U_SHAPE = 4.0  # a of the u_shaped times, as in their paper
STRAIGHT_TIME_SCALE = 1000.0  # what the time embedding of a velocity's network sees of t = 1


def sample_unit_times(
    distribution: str, batch_size: int, device: torch.device | str, logit_mean: float = 0.0, logit_std: float = 1.0
) -> torch.Tensor:
    """Draw times (B,) in (0, 1), float32.

    distribution: "uniform"; "logit_normal", the sigmoid of a normal with logit_mean and logit_std (Esser et al.,
    arXiv:2403.03206), which looks more often at the middle of the path; or "u_shaped", which looks more often at both of its
    ends, of a density proportional to exp(a t) + exp(a (1 - t)) with a = 4 (Lee et al., arXiv:2405.20320, sec. 4).
    """
    if distribution == "uniform":
        return torch.rand(batch_size, device=device)
    if distribution == "logit_normal":
        return torch.sigmoid(logit_mean + logit_std * torch.randn(batch_size, device=device))
    if distribution == "u_shaped":  # the inverse of its distribution function
        uniform = torch.rand(batch_size, device=device)
        return 0.5 + torch.asinh((2 * uniform - 1) * math.sinh(U_SHAPE / 2)) / U_SHAPE
    raise ValueError(f"unknown time distribution {distribution!r}; expected one of {', '.join(TIME_DISTRIBUTIONS)}")


class LinearPathScheduler(BaseScheduler):
    """The straight path xt = t data + (1 - t) noise, whose velocity is data - noise at every t in [0, 1].

    Time rises from noise (t = 0) to data (t = 1). Source: Liu et al., Flow Straight and Fast, arXiv:2209.03003, eq. 1.
    """

    t_noise = 0.0
    t_data = 1.0

    @dataclass
    class Config(Options):
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

    def noise_level(self, t: torch.Tensor) -> torch.Tensor:
        """sigma = (1 - t) / t, for xt / t = data + sigma noise."""
        return (1 - t) / t


def as_velocity(output: torch.Tensor, xt: torch.Tensor, t: torch.Tensor, prediction: str) -> torch.Tensor:
    """What a network's output (B, ...) at xt (B, ...) and t (B,) says of the velocity of the straight path.

    It is the velocity itself, or, with prediction "data", leads to the data that the output is: (output - xt) / (1 - t), with
    1 - t at least 0.05 (Li and He, arXiv:2511.13720). Then one step from noise ends on what the network drew, without a
    remainder of the noise, which a small network is hard put to subtract from itself.
    """
    if prediction == "velocity":
        return output
    return (output - xt) / expand_t((1 - t).clamp(min=MIN_LEFT), xt)


def straight_parameterization(prediction: str, time_scale: float) -> str:
    """Names what a network gives that is asked for a prediction at xt and time_scale * t."""
    return f"{prediction} of the straight path, time_scale {time_scale:g}"


class VelocityModel(Method):
    """A network that gives the velocity at (xt, t). A subclass says how it learns: compute_loss."""

    Scheduler = LinearPathScheduler
    takes_guidance = True

    @dataclass
    class Config(LinearPathScheduler.Config):
        time_scale: float = field(
            default=STRAIGHT_TIME_SCALE, metadata={"help": "the network's time embedding sees time_scale * t"}
        )

    def predict(self, xt: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The velocity at xt (B, 3, H, W) and t (B,) in [0, 1]."""
        config = self.config
        return as_velocity(self.network(xt, t * config.time_scale, **kwargs), xt, t, config.prediction)

    @property
    def parameterization(self) -> str:
        return straight_parameterization(self.config.prediction, self.config.time_scale)


class AverageVelocityModel(Method):
    """A network that gives the average velocity of a jump from t to a later time, told as its condition.

    A subclass says how it learns: compute_loss. Sampling makes one jump per step.
    """

    Scheduler = LinearPathScheduler
    needs_condition = True

    @dataclass
    class Config(LinearPathScheduler.Config):
        time_scale: float = field(
            default=10.0, metadata={"help": "the network sees time_scale * t and time_scale * the length of the jump"}
        )

    def predict(
        self,
        xt: torch.Tensor,
        t: torch.Tensor,
        interval: torch.Tensor | None = None,
        network: nn.Module | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """The average velocity over the jump from t to t + interval: xt (B, ...) and t (B,) in [0, 1] -> (B, ...).

        Without an interval (B,) it is 0: the instantaneous velocity. network: another than the model's own.
        """
        interval = torch.zeros_like(t) if interval is None else interval
        scale, network = self.config.time_scale, self.network if network is None else network
        return as_velocity(network(xt, t * scale, interval * scale, **kwargs), xt, t, self.config.prediction)

    def sampling_step(
        self, x: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor, noise: Callable[[], torch.Tensor], **kwargs: Any
    ) -> torch.Tensor:
        """One jump by the average velocity between t and t_next."""
        return self.scheduler.reverse_process_step(x, self.predict(x, t, t_next - t, **kwargs).to(x.dtype), t, t_next)
