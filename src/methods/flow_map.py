"""How to build a consistency model: flow maps via self-distillation (Boffi et al., NeurIPS 2025, arXiv:2505.18825)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.common.guidance import with_labels
from src.common.options import option
from src.methods.shared.method import register, split_batch
from src.methods.shared.straight_path import AverageVelocityModel
from src.methods.shared.targets import held_fixed
from src.utils import expand_t


@register("flow_map")
class FlowMap(AverageVelocityModel):
    """Learn the flow map X_{s,t}(x) = x + (t - s) v_{s,t}(x), which carries a state at s to the same path's state at t.

    On the diagonal v_{s,s} is the velocity and learns by flow matching. Off it (s < t) the map learns from itself, by one of

        lagrangian (LSD)    d/dt X_{s,t}(x) = v_{t,t}(X_{s,t}(x))
        progressive (PSD)   X_{s,t}(x) = X_{u,t}(X_{s,u}(x)),  s < u < t

    with the right-hand side held fixed, both its weights and the state it is taken at: what is known flows from the diagonal
    outwards, and no derivative in x is needed, which the authors find stable. It is called without dropout. LSD takes d/dt as a
    Jacobian-vector product in float32 and trains through it: about twice the time and memory of a plain forward and backward
    pass for those images. The paper's learned weight w(s, t) is left out: every image counts the same. s and t - s are what
    the network sees; (s, t) is uniform on the triangle when training times are uniform.
    """

    takes_labels = True
    cost = 2.0

    @dataclass
    class Config(AverageVelocityModel.Config):
        diagonal_share: float = option(0.75, "share of the batch with s = t, which is flow matching", minimum=0, maximum=1)
        variant: str = option("lagrangian", "how the map learns from itself", choices=("lagrangian", "progressive"))
        intermediate: str = option("uniform", "u between s and t, if progressive", choices=("uniform", "midpoint"))

    def compute_loss(self, data: Tensor, noise: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Mean squared error of the velocity on diagonal_share of the batch and of LSD or PSD on the rest: a scalar."""
        scheduler, config = self.scheduler, self.config
        ends = torch.stack([scheduler.sample_timesteps(data.shape[0], data.device) for _ in range(2)])
        gamma = torch.rand_like(ends[0]) if config.intermediate == "uniform" else torch.full_like(ends[0], 0.5)
        diagonal, jump = (rows.to(data.device) for rows in split_batch(data.shape[0], config.diagonal_share))
        s, t = ends[0].clone(), ends.amax(dim=0)
        s[jump] = ends[:, jump].amin(dim=0)
        xs = scheduler.forward_process(data, noise, s)
        errors = []
        if len(diagonal):
            velocity = scheduler.get_target(data, noise, s)[diagonal]
            errors.append(self.predict(xs[diagonal], s[diagonal], **with_labels(labels, diagonal)).float() - velocity)
        if len(jump):
            label_kwargs = with_labels(labels, jump)
            if config.variant == "lagrangian":
                value, target = self.lagrangian(xs[jump], s[jump], t[jump], **label_kwargs)
            else:
                value, target = self.progressive(xs[jump], s[jump], t[jump], gamma[jump], **label_kwargs)
            errors.append(value.float() - target.float())
        losses = torch.cat(errors).square().flatten(1).mean(dim=1)
        return self.report_losses(s[torch.cat([diagonal, jump])], losses)

    def lagrangian(self, xs: Tensor, s: Tensor, t: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Both sides of the Lagrangian equation at xs (B, ...) and s < t (B,): d/dt X_{s,t}(xs), v_{t,t}(X_{s,t}(xs))."""

        def flow_map(h: Tensor) -> Tensor:
            return xs + expand_t(h, xs) * self.predict(xs, s, h, **kwargs)

        with torch.autocast(xs.device.type, enabled=False):
            xt, derivative = torch.func.jvp(flow_map, (t - s,), (torch.ones_like(t),))
        return derivative, self._teacher(xt.detach(), t, torch.zeros_like(t), **kwargs)

    def progressive(self, xs: Tensor, s: Tensor, t: Tensor, gamma: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Both sides of the semigroup property at xs (B, ...), s < t and gamma in [0, 1], all (B,), over t - s and less xs.

        With u = s + gamma (t - s) that is v_{s,t}(xs) and gamma v_{s,u}(xs) + (1 - gamma) v_{u,t}(X_{s,u}(xs)).
        """
        value = self.predict(xs, s, t - s, **kwargs)
        u, weight = s + gamma * (t - s), expand_t(gamma, xs)
        first = self._teacher(xs, s, u - s, **kwargs)
        second = self._teacher(xs + expand_t(u - s, xs) * first, u, t - u, **kwargs)
        return value, weight * first + (1 - weight) * second

    def _teacher(self, xs: Tensor, s: Tensor, interval: Tensor, **kwargs: Any) -> Tensor:
        """predict as it is now: without gradients and without dropout."""
        with held_fixed(self.network):
            return self.predict(xs, s, interval, **kwargs).to(xs.dtype)
