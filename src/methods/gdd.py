"""Diffusion Models Are Innate One-Step Generators (GDD and GDD-I; Zheng and Yang, 2024, arXiv:2405.20750)."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from src.common.guidance import with_labels
from src.methods.shared.discriminators import non_saturating_discriminator, non_saturating_generator
from src.methods.shared.generator import AdversarialModel
from src.methods.shared.method import register, split_batch

GENERATE, DENOISE = LATER_CALLS = ("generate", "denoise")


@register("gdd")
class GDD(AdversarialModel):
    """A teacher's network, taken as a one-step generator G(z) = D(sigma_max z; sigma_max) and trained by a discriminator alone.

    Nothing ties a sample to the one its teacher would make of the same noise: only the distributions have to agree. With
    freeze (the paper's GDD-I) the convolutions of the residual blocks stay the teacher's, for they do what they do at every
    noise level; norms, attention, time projections, and the convolutions between blocks and resolutions learn.

    The paper's generator makes one call. What later calls do, from data with noise of the sampler's lower levels, mid_share of
    the batch learns, which is not in the paper; train_levels = 1 is the paper's. later_calls says how: they generate anew, by
    the same loss; or they stay the teacher's denoiser, and take a sample with new noise along its flow, in Euler's steps. The
    discriminator then judges the first call alone.
    """

    @dataclass
    class Config(AdversarialModel.Config):
        freeze: bool = field(default=False, metadata={"help": "GDD-I: leave the residual blocks' convolutions as they are"})
        later_calls: str = field(
            default=GENERATE,
            metadata={
                "help": "what calls below sigma_max do: generate, or denoise as the teacher",
                "choices": LATER_CALLS,
            },
        )
        denoise_weight: float = field(
            default=10.0, metadata={"help": "of staying the teacher, where later calls denoise", "minimum": 0}
        )

    def _setup(self, **kwargs: Any) -> None:
        super()._setup(**kwargs)
        if self.config.freeze:
            for parameter in block_convolutions(self.network):
                parameter.requires_grad_(False)

    @property
    def denoises(self) -> bool:
        """Whether calls below sigma_max are the teacher's."""
        return self.config.later_calls == DENOISE

    def compute_loss(
        self,
        data: torch.Tensor,
        noise: torch.Tensor,
        step: int = 1,
        group: str = "network",
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """The non-saturating loss of the group, with the denoising loss for the network: data and noise (B, ...) -> scalar."""
        if group == "discriminator":
            return self.discriminator_loss(data, noise, step, non_saturating_discriminator, labels)
        if not self.denoises:
            return self.generator_losses(data, noise, **with_labels(labels)).mean()
        kept, made = (rows.to(data.device) for rows in split_batch(len(data), self.config.mid_share))
        losses = []
        if len(made):
            losses.append(self.generator_losses(data[made], noise[made], **with_labels(labels, made)))
        if len(kept):
            losses.append(self.denoising_losses(data[kept], noise[kept], **with_labels(labels, kept)))
        return torch.cat(losses).mean()

    def generator_losses(self, data: torch.Tensor, noise: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """What the discriminator says of samples, of each: (B, ...) -> (B,)."""
        fake, sigma = self.generate(data, noise, **with_labels(labels))
        losses = non_saturating_generator(self.judge(fake, sigma, **with_labels(labels)))
        self.report_losses(sigma, losses)
        return losses

    def denoising_losses(self, data: torch.Tensor, noise: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """The weighted square of the difference from the teacher's denoised data, of each: (B, ...) -> (B,).

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

    def generator_levels(self, batch_size: int, device: torch.device | str) -> torch.Tensor:
        """As of every model of this kind; sigma_max alone where later calls denoise."""
        if not self.denoises:
            return super().generator_levels(batch_size, device)
        return torch.full((batch_size,), self.config.sigma_max, device=device)

    def sampling_step(
        self, x: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor, noise: Callable[[], torch.Tensor], **kwargs: Any
    ) -> torch.Tensor:
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
