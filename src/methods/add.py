"""Adversarial Diffusion Distillation (ADD; Sauer, Lorenz, Blattmann and Rombach, 2023, arXiv:2311.17042)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.common.options import option
from src.methods.shared.adversarial import AdversarialModel
from src.methods.shared.discriminators import hinge_discriminator, hinge_generator
from src.methods.shared.method import register
from src.utils import expand_t


@register("add")
class ADD(AdversarialModel):
    """A few-step student whose samples a discriminator is to take for data, each held near what the teacher makes of it.

    The student trains at N = train_levels noise levels, the sampler's own, equally often. Its sample is given noise of another
    level, and what the frozen teacher denoises that to is the target, of which only the sample's side has a gradient. A high
    level, whose target is nearly the mean of the data, counts less: c = sigma_data / sqrt(sigma^2 + sigma_data^2), which is the
    paper's exponential weighting, c(t) = alpha_t, for data of this standard deviation.
    """

    cost = 2.3

    @dataclass
    class Config(AdversarialModel.Config):
        mid_share: float = option(0.75, "share of the batch at levels below sigma_max", minimum=0, maximum=1)
        r1_gamma: float = option(1e-5, "weight of R1 on the features of data; 0: none", minimum=0)
        distill_weight: float = option(2.5, "the paper's lambda: the teacher's part", minimum=0)
        distill_mean: float = option(-0.2, "mean of the logarithm of the teacher's noise levels")
        distill_std: float = option(1.2, "standard deviation of that logarithm", minimum=0)

    def compute_loss(
        self, data: Tensor, noise: Tensor, step: int = 1, group: str = "network", labels: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """The group's hinge loss, with the distillation for the network: data and noise (B, ...) -> scalar."""
        if group == "discriminator":
            return self.discriminator_loss(data, noise, step, hinge_discriminator, labels)
        fake, sigma = self.generate(data, noise, labels)
        losses = hinge_generator(self.critic_logits(fake, sigma, labels))
        if self.config.distill_weight > 0:
            losses = losses + self.config.distill_weight * self.distillation(fake, *self.teacher_draws(fake), labels)
        return self.report_losses(sigma, losses)

    def teacher_draws(self, fake: Tensor) -> tuple[Tensor, Tensor]:
        """New noise (B, ...) and log-normal levels (B,), which by default lie as equal steps of a variance-preserving path."""
        config = self.config
        levels = (config.distill_mean + config.distill_std * torch.randn(len(fake), device=fake.device)).exp()
        return torch.randn_like(fake), levels.clamp(config.sigma_min, config.sigma_max)

    def distillation(self, fake: Tensor, noise: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """c(sigma) times the mean square of fake less what the teacher makes of fake + sigma noise: (B, ...) -> (B,)."""
        with torch.no_grad():
            target = self.taught(labels)(fake.detach() + expand_t(sigma, fake) * noise, sigma).to(fake.dtype)
        weight = self.config.sigma_data / (sigma**2 + self.config.sigma_data**2).sqrt()
        return weight * (fake - target).square().flatten(1).mean(dim=1)
