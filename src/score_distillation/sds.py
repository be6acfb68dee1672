"""Score distillation sampling (SDS; Poole et al., DreamFusion, ICLR 2023, arXiv:2209.14988).

An image is moved to where the frozen model sees, in noise that was added to it, no more than that noise: a mode of the model's
density, sharpened by guidance. The image is its own parameter here, so that d x / d theta of the paper is 1.
"""

from dataclasses import dataclass, field

import torch

from src.common.options import Options
from src.score_distillation.loss import SCALE_HELP, Loss
from src.score_distillation.prior import Condition, Prior


@dataclass
class SDSOptions(Options):
    guidance_scale: float = field(default=7.5, metadata={"help": SCALE_HELP, "minimum": 0})


@torch.no_grad()
def sds_gradient(
    x: torch.Tensor, condition: Condition, prior: Prior, generator: torch.Generator, options: SDSOptions
) -> torch.Tensor:
    """The gradient of SDS at latents x (B, ...), as x is:

        noise_hat(xt; condition, t) - noise                                                   (eq. 3, with w(t) = 1)

    with t and noise drawn for each image. The derivative of the network is left out, as the paper does: eq. 2 has it.
    """
    xt, t, noise = prior.draw_state(x, generator)
    return prior.predict_noise(xt, t, condition, options.guidance_scale) - noise


class SDS(Loss):
    """Nothing is kept from one step to the next."""

    Config = SDSOptions

    def gradient(self, x: torch.Tensor, step: int, steps: int, generator: torch.Generator) -> torch.Tensor:
        return sds_gradient(x, self.condition, self.prior, generator, self.options)
