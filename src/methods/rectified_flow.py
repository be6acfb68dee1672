"""Rectified flow (Liu et al., ICLR 2023, arXiv:2209.03003), with logit-normal times (Esser et al., arXiv:2403.03206)."""

from typing import Any

from torch import Tensor

from src.common.guidance import with_labels
from src.methods.shared.method import register
from src.methods.shared.straight_path import VelocityModel
from src.utils import expand_t


@register("rectified_flow")
class RectifiedFlow(VelocityModel):
    """Learn the velocity of the straight path from noise to data; follow it with Euler steps."""

    takes_labels = True
    cost = 1.0

    def compute_loss(self, data: Tensor, noise: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Mean squared error of the velocity (eq. 1 of the paper): data and noise (B, 3, H, W) -> scalar."""
        t = self.scheduler.sample_timesteps(data.shape[0], data.device)
        xt = self.scheduler.forward_process(data, noise, t)
        pred = self.predict(xt, t, **with_labels(labels))
        losses = (pred.float() - self.scheduler.get_target(data, noise, t)).square().flatten(1).mean(dim=1)
        return self.report_losses(t, losses)

    def denoised(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """x = data + sigma noise is xt / t at the time t where (1 - t) / t = sigma; the data are xt + (1 - t) velocity."""
        t = 1 / (1 + sigma)
        xt, left = expand_t(t, x) * x, expand_t(1 - t, x)
        return xt + left * self.predict(xt, t, **kwargs).to(x.dtype)
