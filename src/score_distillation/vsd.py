"""Variational score distillation (VSD; Wang et al., ProlificDreamer, NeurIPS 2023, arXiv:2305.16213).

Several images, the particles, are samples of a distribution that is moved to the frozen model's. A second model, the frozen one
with adapters of low rank (LoRA), learns the noise of the particles beside, and takes the place of the noise itself: particles
that are spread as the model's own samples are move no more, where SDS goes to a mode.
"""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from src.common.options import Options
from src.score_distillation.loss import SCALE_HELP, Loss
from src.score_distillation.prior import Condition, Prior


@dataclass
class VSDOptions(Options):
    guidance_scale: float = field(default=7.5, metadata={"help": SCALE_HELP, "minimum": 0})
    lora_guidance_scale: float = field(
        default=1.0, metadata={"help": "of the adapted model; 1 is no guidance, as in the paper", "minimum": 0}
    )
    lora_rank: int = field(default=4, metadata={"help": "of the adapters", "minimum": 1})
    lora_lr: float = field(default=1e-4, metadata={"help": "of the adapters, AdamW", "above": 0})
    lora_weight_decay: float = field(default=1e-4, metadata={"help": "of the adapters", "minimum": 0})
    lora_loss_weight: float = field(default=1.0, metadata={"help": "what the adapters' loss is multiplied by", "above": 0})


@torch.no_grad()
def vsd_gradient(
    x: torch.Tensor,
    condition: Condition,
    prior: Prior,
    lora: Prior,
    generator: torch.Generator,
    options: VSDOptions,
) -> torch.Tensor:
    """The gradient of VSD at particles x (B, ...), as x is:

        noise_prior(xt; condition, t) - noise_lora(xt; condition, t)                          (eq. 9, with w(t) = 1)

    with t and noise drawn for each particle. lora: the model of the particles' own noise.
    """
    xt, t, _ = prior.draw_state(x, generator)
    pretrained = prior.predict_noise(xt, t, condition, options.guidance_scale)
    return pretrained - lora.predict_noise(xt, t, condition, options.lora_guidance_scale)


def lora_loss(x: torch.Tensor, condition: Condition, lora: Prior, generator: torch.Generator) -> torch.Tensor:
    """How well lora knows the noise of particles x (B, ...): the mean squared error of eq. 8, a scalar with a gradient."""
    xt, t, noise = lora.draw_state(x, generator)
    return (lora.predict_noise(xt, t, condition) - noise).square().mean()


class VSD(Loss):
    """The adapted model and its optimizer are kept; it makes a training step after each gradient that it is used for."""

    Config = VSDOptions
    FOR_CHECKPOINT = MappingProxyType({"lora_lr": 1e-2})

    def setup(self) -> None:
        self.lora, self.parameters = self.prior.adapted(self.options.lora_rank)
        decay = self.options.lora_weight_decay
        self.optimizer = torch.optim.AdamW(self.parameters, self.options.lora_lr, weight_decay=decay)

    def gradient(self, x: torch.Tensor, step: int, steps: int, generator: torch.Generator) -> torch.Tensor:
        found = vsd_gradient(x, self.condition, self.prior, self.lora, generator, self.options)
        self.optimizer.zero_grad()
        (self.options.lora_loss_weight * lora_loss(x, self.condition, self.lora, generator)).backward()
        self.optimizer.step()
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"lora": [value.detach() for value in self.parameters], "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for parameter, value in zip(self.parameters, state["lora"], strict=True):
            parameter.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
