"""Mean Flows for One-step Generative Modeling (Geng, Deng, Bai, Kolter, He, NeurIPS 2025, arXiv:2505.13447)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from src.methods._base import Method, register
from src.methods._paths import LinearPathScheduler, as_velocity
from src.methods._schedules import split_batch
from src.utils import expand_t


@register("meanflow")
class MeanFlow(Method):
    """Learn the average velocity u of the jump from t to a later r: x_r = x_t + (r - t) u(x_t, t, r).

    Here t rises from noise to data, the other way than in the paper. (r - t) u is the integral of the velocity v from t to r.
    Its derivative along the path with r held fixed, -u + (r - t) du/dt = -v, gives the MeanFlow identity (eq. 6)

        u(x_t, t, r) = v(x_t, t) + (r - t) du/dt,    du/dt = v du/dx + du/dt at fixed x and r (eq. 8).

    The network sees t and h = r - t, so du/dt is its derivative along (x, t, h) in the direction (v, 1, -1). The right side is
    the target, without gradients, and v there is the velocity of the one pair, data - noise. Images with r = t learn plain
    flow matching. The others cost a Jacobian-vector product in float32: about two forward passes for one.

    The defaults are the paper's for CIFAR-10, the one U-Net on pixels in it; its times are logit-normal(-2, 2) towards noise.
    time_scale is small, because the derivative takes it as a factor: 1000 instead of 10 made the errors of one jump 2.6 times
    as large on points in the plane.
    """

    Scheduler = LinearPathScheduler
    needs_condition = True

    @dataclass
    class Config(LinearPathScheduler.Config):
        time_distribution: str = field(
            default="logit_normal", metadata={"help": "how t and r are drawn", "choices": ("uniform", "logit_normal")}
        )
        logit_mean: float = field(default=2.0, metadata={"help": "mean of the logit-normal times; above 0 is nearer the data"})
        logit_std: float = field(default=2.0, metadata={"help": "standard deviation of the logit-normal times"})
        time_scale: float = field(default=10.0, metadata={"help": "the network sees time_scale * t and time_scale * (r - t)"})
        flow_share: float = field(
            default=0.25, metadata={"help": "share of the batch with r = t, which is flow matching", "minimum": 0}
        )
        norm_p: float = field(default=0.75, metadata={"help": "power of the adaptive weight; 0 is none", "minimum": 0})
        norm_eps: float = field(default=1e-3, metadata={"help": "added to the squared error in that weight", "minimum": 0})

        def __post_init__(self) -> None:
            if not 0 <= self.flow_share <= 1:
                raise ValueError(f"expected flow_share from 0 to 1, got {self.flow_share:g}")
            if self.norm_p < 0:
                raise ValueError(f"expected norm_p of at least 0, got {self.norm_p:g}")
            if self.norm_eps <= 0:
                raise ValueError(f"expected norm_eps above 0, got {self.norm_eps:g}")

    def compute_loss(self, data: torch.Tensor, noise: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The adaptively weighted squared error w ||u - target||^2 (eq. 9 and 22): data and noise (B, ...) -> scalar.

        The squared error is summed over an image, w = 1 / (||u - target||^2 + norm_eps)^norm_p without gradients. What is
        reported by time is the squared error's mean over an image, without w.
        """
        scheduler, config = self.scheduler, self.config
        ends = torch.stack([scheduler.sample_timesteps(data.shape[0], data.device) for _ in range(2)])
        t, r = ends.amin(dim=0), ends.amax(dim=0)
        xt = scheduler.forward_process(data, noise, t)
        velocity = scheduler.get_target(data, noise, t)
        flow, jump = (rows.to(data.device) for rows in split_batch(len(t), config.flow_share))
        errors = []
        if len(flow):
            errors.append(self.predict(xt[flow], t[flow]).float() - velocity[flow])
        if len(jump):
            u, target = self.average_and_target(xt[jump], t[jump], r[jump], velocity[jump])
            errors.append(u - target)
        squares = torch.cat(errors).square().flatten(1)
        self.report_losses(t[torch.cat([flow, jump])], squares.mean(dim=1))
        losses = squares.sum(dim=1)
        return (losses / (losses.detach() + config.norm_eps) ** config.norm_p).mean()

    def average_and_target(
        self, xt: torch.Tensor, t: torch.Tensor, r: torch.Tensor, velocity: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """u(xt, t, r) and the right-hand side of the identity, which carries no gradient: xt, velocity (B, ...); t, r (B,).

        Both come from one call, so that dropout is the same in the value and the derivative. Float32, whatever autocast says.
        """
        h = r - t
        with torch.autocast(xt.device.type, enabled=False):
            u, du_dt = torch.func.jvp(self.predict, (xt, t, h), (velocity, torch.ones_like(t), -torch.ones_like(h)))
        return u, (velocity + expand_t(h, xt) * du_dt).detach()

    def predict(self, xt: torch.Tensor, t: torch.Tensor, interval: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """The average velocity u over the jump from t to t + interval: xt (B, ...) and t (B,) in [0, 1] -> (B, ...).

        Without an interval (B,) it is 0: the instantaneous velocity.
        """
        interval = torch.zeros_like(t) if interval is None else interval
        scale = self.config.time_scale
        return as_velocity(self.network(xt, t * scale, interval * scale, **kwargs), xt, t, self.config.prediction)

    def sampling_step(
        self, x: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor, noise: Callable[[], torch.Tensor], **kwargs: Any
    ) -> torch.Tensor:
        """One step by the average velocity between t and t_next (algorithm 2)."""
        return self.scheduler.reverse_process_step(x, self.predict(x, t, t_next - t, **kwargs).to(x.dtype), t, t_next)
