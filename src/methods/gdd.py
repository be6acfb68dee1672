"""Diffusion Models Are Innate One-Step Generators (GDD and GDD-I; Zheng and Yang, 2024, arXiv:2405.20750)."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from src.common.guidance import with_labels
from src.common.options import option
from src.methods.shared.adversarial import AdversarialModel
from src.methods.shared.discriminators import non_saturating_discriminator, non_saturating_generator
from src.methods.shared.method import register, split_batch

LATER_CALLS = ("generate", "denoise")


@register("gdd")
class GDD(AdversarialModel):
    """A teacher's network, taken as a one-step generator G(z) = D(sigma_max z; sigma_max) and trained by a discriminator alone.

    Nothing ties a sample to the one its teacher would make of the same noise: only the distributions have to agree. With
    freeze (the paper's GDD-I) the convolutions of the residual blocks stay the teacher's, for they do what they do at every
    noise level; norms, attention, time projections, and the convolutions between blocks and resolutions learn.

    The paper's generator makes one call, which is train_levels = 1. What later calls do, mid_share of the batch learns, from
    data with noise of the sampler's lower levels. later_calls says how: they generate anew, by the same loss; or they stay the
    teacher's denoiser, and take a sample with new noise along its flow, in Euler's steps. The discriminator then looks at the
    first call alone.
    """

    cost = 2.0

    @dataclass
    class Config(AdversarialModel.Config):
        freeze: bool = option(False, "GDD-I: leave the residual blocks' convolutions as they are")
        later_calls: str = option("generate", "below sigma_max: generate, or denoise as the teacher", choices=LATER_CALLS)
        denoise_weight: float = option(10.0, "of staying the teacher, where later calls denoise", minimum=0)

        def training_levels(self) -> list[float]:
            return super().training_levels() if self.later_calls == "generate" else [self.sigma_max]

    def _setup(self, **kwargs: Any) -> None:
        super()._setup(**kwargs)
        self.denoises = self.config.later_calls == "denoise"  # below sigma_max
        if self.config.freeze:
            for parameter in block_convolutions(self.network):
                parameter.requires_grad_(False)

    def compute_loss(
        self, data: Tensor, noise: Tensor, step: int = 1, group: str = "network", labels: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """The non-saturating loss of the group, with the denoising loss for the network: data and noise (B, ...) -> scalar."""
        if group == "discriminator":
            return self.discriminator_loss(data, noise, step, non_saturating_discriminator, labels)
        if not self.denoises:
            return self.generator_losses(data, noise, labels).mean()
        kept, made = (rows.to(data.device) for rows in split_batch(len(data), self.config.mid_share))
        parts = ((self.generator_losses, made), (self.denoising_losses, kept))
        losses = [loss(data[rows], noise[rows], **with_labels(labels, rows)) for loss, rows in parts if len(rows)]
        return torch.cat(losses).mean()

    def generator_losses(self, data: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of each sample by the discriminator: (B, ...) -> (B,)."""
        fake, sigma = self.generate(data, noise, labels)
        losses = non_saturating_generator(self.critic_logits(fake, sigma, labels))
        self.report_losses(sigma, losses)
        return losses

    def denoising_losses(self, data: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The weighted squared distance of each image from the teacher's denoised data: (B, ...) -> (B,).

        Noise levels are log-uniform between those that a sampler of three calls or more begins and ends its later calls at.
        """
        config, place = self.config, 2 * torch.rand(len(data), device=data.device) - 1
        sigma = config.mid_sigma * config.mid_span**place
        xt = self.scheduler.forward_process(data, noise, sigma)
        with torch.no_grad():
            target = self.taught(labels)(xt, sigma).to(data.dtype)
        errors = (self.predict(xt, sigma, **with_labels(labels)).to(data.dtype) - target).square().flatten(1).mean(dim=1)
        losses = config.denoise_weight * self.edm_weight(sigma) * errors
        self.report_losses(sigma, losses)
        return losses

    def sampling_step(self, x: Tensor, t: Tensor, t_next: Tensor, noise: Callable[[], Tensor], **kwargs: Any) -> Tensor:
        """To the data and back to the lower noise level t_next: with new noise, or from a call that denoises with its own."""
        if not self.denoises or bool(t.flatten()[0] >= self.config.sigma_max):  # as float32, which t is
            return super().sampling_step(x, t, t_next, noise, **kwargs)
        return self.scheduler.reverse_process_step(x, self.steered(x, t, **kwargs).to(x.dtype), t, t_next)


def block_convolutions(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of the two convolutions of every residual block. Raises ValueError where there is none."""
    convolutions = re.compile(r"blocks\.\d+\.(block1\.2|block2\.3)\.")  # the names that the course fixes
    found = [parameter for name, parameter in network.named_parameters() if convolutions.search(name)]
    if not found:
        raise ValueError("freeze is for the U-Net: this network has no residual blocks")
    return found
