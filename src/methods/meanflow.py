"""Mean Flows for One-step Generative Modeling (Geng, Deng, Bai, Kolter, He, NeurIPS 2025, arXiv:2505.13447)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from src.common.guidance import with_labels
from src.common.options import option
from src.methods.shared.method import register, split_batch
from src.methods.shared.straight_path import AverageVelocityModel
from src.utils import expand_t


@register("meanflow")
class MeanFlow(AverageVelocityModel):
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

    takes_labels = True
    cost = 2.4

    @dataclass
    class Config(AverageVelocityModel.Config):
        time_distribution: str = option("logit_normal", "how t and r are drawn", choices=("uniform", "logit_normal"))
        logit_mean: float = option(2.0, "mean of the logit-normal times; above 0 is nearer the data")
        logit_std: float = option(2.0, "standard deviation of the logit-normal times")
        flow_share: float = option(0.25, "share of the batch with r = t, which is flow matching", minimum=0, maximum=1)
        norm_p: float = option(0.75, "power of the adaptive weight; 0 is none", minimum=0)
        norm_eps: float = option(1e-3, "added to the squared error in that weight", above=0)

    def compute_loss(self, data: Tensor, noise: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Tensor:
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
            errors.append(self.predict(xt[flow], t[flow], **with_labels(labels, flow)).float() - velocity[flow])
        if len(jump):
            u, target = self.average_and_target(xt[jump], t[jump], r[jump], velocity[jump], **with_labels(labels, jump))
            errors.append(u - target)
        squares = torch.cat(errors).square().flatten(1)
        self.report_losses(t[torch.cat([flow, jump])], squares.mean(dim=1))
        losses = squares.sum(dim=1)
        return (losses / (losses.detach() + config.norm_eps) ** config.norm_p).mean()

    def average_and_target(self, xt: Tensor, t: Tensor, r: Tensor, velocity: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """u(xt, t, r) and the right-hand side of the identity, which carries no gradient: xt, velocity (B, ...); t, r (B,).

        Both come from one call, so that dropout is the same in the value and the derivative. Float32, whatever autocast says.
        kwargs: for predict, such as labels.
        """
        h, predict = r - t, partial(self.predict, **kwargs)
        with torch.autocast(xt.device.type, enabled=False):
            u, du_dt = torch.func.jvp(predict, (xt, t, h), (velocity, torch.ones_like(t), -torch.ones_like(h)))
        return u, (velocity + expand_t(h, xt) * du_dt).detach()
