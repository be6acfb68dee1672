"""Score distillation sampling (SDS; Poole et al., DreamFusion, ICLR 2023, arXiv:2209.14988).

An image is moved to where the frozen model sees, in noise that was added to it, no more than that noise: a mode of the model's
density, sharpened by guidance. The image is its own parameter here, so that d x / d theta of the paper is 1.
"""

from dataclasses import dataclass, field

import torch

from src.common.options import Options
from src.score_distillation.loss import SCALE_HELP, Loss


class SDS(Loss):
    """The gradient is

        noise_hat(xt; condition, t) - noise                                                   (eq. 3, with w(t) = 1)

    with t and noise drawn for each image. The derivative of the network is left out, as the paper does: eq. 2 has it.
    """

    @dataclass
    class Config(Options):
        guidance_scale: float = field(default=7.5, metadata={"help": SCALE_HELP, "minimum": 0})

    @torch.no_grad()
    def gradient(self, x: torch.Tensor, step: int, steps: int, generator: torch.Generator) -> torch.Tensor:
        xt, t, noise = self.prior.draw_state(x, generator)
        return self.prior.predict_noise(xt, t, self.condition, self.options.guidance_scale) - noise
