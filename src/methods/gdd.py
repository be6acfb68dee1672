"""Diffusion Models Are Innate One-Step Generators (GDD and GDD-I; Zheng and Yang, 2024, arXiv:2405.20750)."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from src.common.guidance import with_labels
from src.methods._base import register
from src.methods._discriminators import non_saturating_discriminator, non_saturating_generator
from src.methods._generator import AdversarialModel
from src.module import ResBlock


@register("gdd")
class GDD(AdversarialModel):
    """A teacher's network, taken as a one-step generator G(z) = D(sigma_max z; sigma_max) and trained by a discriminator alone.

    Nothing ties a sample to the one its teacher would make of the same noise: only the distributions have to agree. With
    freeze (the paper's GDD-I) the convolutions of the residual blocks stay the teacher's, for they do what they do at every
    noise level; norms, attention, time projections, and the convolutions between blocks and resolutions learn.

    The paper's generator makes one call. That those of two and four stay samples, mid_share of the batch learns the same from
    data with noise of the sampler's lower levels, which is not in the paper; train_levels = 1 is the paper's.
    """

    @dataclass
    class Config(AdversarialModel.Config):
        freeze: bool = field(default=False, metadata={"help": "GDD-I: leave the residual blocks' convolutions as they are"})

    def _setup(self, **kwargs: Any) -> None:
        super()._setup(**kwargs)
        if self.config.freeze:
            for parameter in block_convolutions(self.network):
                parameter.requires_grad_(False)

    def compute_loss(
        self,
        data: torch.Tensor,
        noise: torch.Tensor,
        step: int = 1,
        group: str = "network",
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """The non-saturating loss of the group: data and noise (B, ...) -> scalar."""
        if group == "discriminator":
            return self.discriminator_loss(data, noise, step, non_saturating_discriminator, labels)
        fake, sigma = self.generate(data, noise, **with_labels(labels))
        losses = non_saturating_generator(self.judge(fake, sigma, **with_labels(labels)))
        self.report_losses(sigma, losses)
        return losses.mean()


def block_convolutions(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of the two convolutions of every residual block. Raises ValueError where there is none."""
    blocks = [module for module in network.modules() if isinstance(module, ResBlock)]
    if not blocks:
        raise ValueError("freeze is for the U-Net: this network has no residual blocks")
    return [parameter for block in blocks for branch in (block.block1, block.block2) for parameter in branch[-1].parameters()]
