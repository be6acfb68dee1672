"""The straight path between noise and data: its scheduler, and what all models share that learn velocities on it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from src.common.options import Options, option
from src.methods.shared.method import Method, PathScheduler
from src.utils import expand_t

FLOW_PREDICTIONS = ("velocity", "data")
MIN_LEFT = 0.05  # of the way to the data, that a step towards predicted data is divided by
TIME_DISTRIBUTIONS = ("uniform", "logit_normal", "u_shaped")
U_SHAPE = 4.0  # a of the u_shaped times, as in their paper
STRAIGHT_TIME_SCALE = 1000.0  # what the time embedding of a velocity's network sees of t = 1


class LinearPathScheduler(PathScheduler):
    """The straight path xt = t data + (1 - t) noise, whose velocity is data - noise at every t in [0, 1].

    Time rises from noise (t = 0) to data (t = 1). Source: Liu et al., Flow Straight and Fast, arXiv:2209.03003, eq. 1.
    """

    t_noise = 0.0
    t_data = 1.0

    @dataclass
    class Config(Options):
        prediction: str = option(
            "velocity", "what the network gives: the velocity, or the data it leads to", choices=FLOW_PREDICTIONS
        )
        time_distribution: str = option("uniform", "how training times are drawn", choices=TIME_DISTRIBUTIONS)
        logit_mean: float = option(0.0, "mean of the logit-normal times; above 0 is nearer the data")
        logit_std: float = option(1.0, "standard deviation of the logit-normal times")

    def sample_timesteps(self, batch_size: int, device: torch.device | str) -> Tensor:
        """Times (B,) in (0, 1), float32.

        "logit_normal" times are the sigmoid of a normal (Esser et al., arXiv:2403.03206): more in the middle of the path.
        "u_shaped" ones are near its ends, with a density proportional to exp(a t) + exp(a (1 - t)) and a = 4 (Lee et al.,
        arXiv:2405.20320, sec. 4).
        """
        config = self.config
        if config.time_distribution == "logit_normal":
            return torch.sigmoid(config.logit_mean + config.logit_std * torch.randn(batch_size, device=device))
        uniform = torch.rand(batch_size, device=device)
        if config.time_distribution == "u_shaped":  # the inverse of its distribution function
            return 0.5 + torch.asinh((2 * uniform - 1) * math.sinh(U_SHAPE / 2)) / U_SHAPE
        return uniform

    def forward_process(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        t = expand_t(t, data)
        return t * data + (1 - t) * noise

    def reverse_process_step(self, xt: Tensor, pred: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """One Euler step along the velocity pred."""
        return xt + expand_t(t_next - t, xt) * pred

    def get_target(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The velocity d xt / dt."""
        return data - noise

    def noise_level(self, t: Tensor) -> Tensor:
        """sigma = (1 - t) / t, for xt / t = data + sigma noise."""
        return (1 - t) / t


def as_velocity(output: Tensor, xt: Tensor, t: Tensor, prediction: str) -> Tensor:
    """What a network's output (B, ...) at xt (B, ...) and t (B,) says of the velocity of the straight path.

    It is the velocity itself, or, with prediction "data", leads to the data that the output is: (output - xt) / (1 - t), with
    1 - t at least 0.05 (Li and He, arXiv:2511.13720). Then one step from noise ends on what the network drew. A small network
    does not have to subtract the noise from itself, which it does badly.
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
        time_scale: float = option(STRAIGHT_TIME_SCALE, "the network's time embedding sees time_scale * t")

    def predict(self, xt: Tensor, t: Tensor, **kwargs: Any) -> Tensor:
        """The velocity at xt (B, 3, H, W) and t (B,) in [0, 1]."""
        return as_velocity(self.network(xt, t * self.config.time_scale, **kwargs), xt, t, self.config.prediction)

    @property
    def parameterization(self) -> str:
        return straight_parameterization(self.config.prediction, self.config.time_scale)


class AverageVelocityModel(Method):
    """A network that gives the average velocity of a jump, whose length is its condition. Sampling makes one jump per step.

    A subclass says how it learns: compute_loss.
    """

    Scheduler = LinearPathScheduler
    needs_condition = True

    @dataclass
    class Config(LinearPathScheduler.Config):
        time_scale: float = option(10.0, "the network sees time_scale * t and time_scale * the length of the jump")

    def predict(
        self, xt: Tensor, t: Tensor, interval: Tensor | None = None, network: nn.Module | None = None, **kwargs: Any
    ) -> Tensor:
        """The average velocity over the jump from t to t + interval: xt (B, ...) and t (B,) in [0, 1] -> (B, ...).

        Without an interval (B,) it is 0: the instantaneous velocity. network: another than the model's own.
        """
        interval = torch.zeros_like(t) if interval is None else interval
        scale, network = self.config.time_scale, self.network if network is None else network
        return as_velocity(network(xt, t * scale, interval * scale, **kwargs), xt, t, self.config.prediction)

    def sampling_step(self, x: Tensor, t: Tensor, t_next: Tensor, noise: Callable[[], Tensor], **kwargs: Any) -> Tensor:
        """One jump by the average velocity between t and t_next."""
        return self.scheduler.reverse_process_step(x, self.predict(x, t, t_next - t, **kwargs).to(x.dtype), t, t_next)
