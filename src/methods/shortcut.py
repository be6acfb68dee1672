"""One Step Diffusion via Shortcut Models (Frans, Hafner, Levine, Abbeel, ICLR 2025, arXiv:2410.12557)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from src.common.guidance import with_labels
from src.common.options import option
from src.methods.shared.method import register, split_batch
from src.methods.shared.straight_path import AverageVelocityModel
from src.methods.shared.targets import follow, frozen_copy
from src.utils import expand_t

CLIP = 4.0  # bootstrap targets and the states they pass through stay in [-CLIP, CLIP], as in the authors' code


@register("shortcut")
class Shortcut(AverageVelocityModel):
    """Learn s(xt, t, d), the direction of a step of size d: xt + d s(xt, t, d) is on the same path at t + d (eq. 2).

    d is one of 1, 1/2, ..., 1/finest_steps. The finest step is the flow case and queried as d = 0, where s is the velocity; a
    step twice as large learns from two steps in a row of the target average of the network (eq. 4). Beside its forward pass for
    the whole batch, a training step costs two without gradients for bootstrap_share of it, and memory for a second network.
    """

    takes_labels = True
    cost = 1.1

    @dataclass
    class Config(AverageVelocityModel.Config):
        time_scale: float = option(1000.0, "the network sees time_scale * t and time_scale * d")
        finest_steps: int = option(128, "steps of the finest grid, the paper's M: a power of two", minimum=2)
        bootstrap_share: float = option(0.125, "share of the batch that learns from two half steps", minimum=0, maximum=1)
        target_decay: float = option(0.999, "what the target network keeps of itself at each step", minimum=0, below=1)

        def validate(self) -> None:
            super().validate()
            if self.finest_steps & (self.finest_steps - 1):
                raise ValueError(f"expected finest_steps a power of two of at least 2, got {self.finest_steps}")

    def _setup(self, **kwargs: Any) -> None:
        super()._setup(**kwargs)
        self.train_only["target"] = frozen_copy(self.network)

    def on_step_end(self, step: int, total_steps: int) -> None:
        follow(self.train_only["target"], self.network, self.config.target_decay)

    def compute_loss(
        self, data: Tensor, noise: Tensor, step: int | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Flow matching, and self-consistency on bootstrap_share of the batch (eq. 5): data and noise (B, ...) -> scalar.

        Before step 1 the target becomes the network, so that a network loaded after the model was built is followed too.
        """
        if step == 1:
            follow(self.train_only["target"], self.network, 0.0)
        batch, device = data.shape[0], data.device
        t = self.scheduler.sample_timesteps(batch, device)
        doublings = self.config.finest_steps.bit_length() - 1
        sections = 2 ** torch.randint(0, doublings, (batch,), device=device)  # 1, 2, ..., finest_steps / 2: d is 1 / sections
        starts = (torch.rand(batch, device=device) * sections).floor() / sections
        bootstrap = split_batch(batch, self.config.bootstrap_share)[0].to(device)
        d = torch.zeros_like(t)
        d[bootstrap] = 1 / sections[bootstrap].to(t.dtype)
        t[bootstrap] = starts[bootstrap].to(t.dtype)

        xt = self.scheduler.forward_process(data, noise, t)
        target = self.scheduler.get_target(data, noise, t)
        if len(bootstrap):
            halves = self.bootstrap_target(xt[bootstrap], t[bootstrap], d[bootstrap], **with_labels(labels, bootstrap))
            target[bootstrap] = halves.to(target.dtype)
        losses = (self.predict(xt, t, d, **with_labels(labels)).float() - target).square().flatten(1).mean(dim=1)
        return self.report_losses(t, losses)

    @torch.no_grad()
    def bootstrap_target(self, xt: Tensor, t: Tensor, d: Tensor, **kwargs: Any) -> Tensor:
        """The mean direction of two half steps of the target network from xt (B, ...) at t (B,): what s(xt, t, d) should be.

        Eq. 4 with the paper's 2d as d. The target network has no dropout and gets no gradient. kwargs: for it, such as labels.
        """
        network, half = self.train_only["target"], d / 2
        first = self.predict(xt, t, half, network=network, **kwargs).to(xt.dtype)
        middle = (xt + expand_t(half, xt) * first).clamp(-CLIP, CLIP)
        second = self.predict(middle, t + half, half, network=network, **kwargs).to(xt.dtype)
        return ((first + second) / 2).clamp(-CLIP, CLIP)

    def predict(
        self, xt: Tensor, t: Tensor, interval: Tensor | None = None, network: nn.Module | None = None, **kwargs: Any
    ) -> Tensor:
        """s(xt, t, d), the average velocity over a step: xt (B, ...) and t (B,) in [0, 1] -> (B, ...).

        interval (B,) is the step size d. The finest, 1 / finest_steps, and less are queried as 0, the instantaneous velocity,
        and so is none. network: another than the model's own.
        """
        if interval is not None:
            interval = torch.where(interval < 1.5 / self.config.finest_steps, 0.0, interval)
        return super().predict(xt, t, interval, network, **kwargs)
