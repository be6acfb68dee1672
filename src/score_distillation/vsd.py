"""Variational score distillation (VSD; Wang et al., ProlificDreamer, NeurIPS 2023, arXiv:2305.16213).

Several images, the particles, are samples of a distribution that is moved to the frozen model's. A second model, the frozen one
with adapters of low rank (LoRA), learns the noise of the particles beside, and stands where SDS has the noise that was added:
particles that are spread as the model's own samples are move no more, where SDS goes to a mode.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from src.common.options import Options
from src.score_distillation.loss import SCALE_HELP, Loss
from src.score_distillation.prior import Condition, Prior


class VSD(Loss):
    """The adapted model and its optimizer are kept; it makes a training step after each gradient that it is used for."""

    @dataclass
    class Config(Options):
        guidance_scale: float = field(default=7.5, metadata={"help": SCALE_HELP, "minimum": 0})
        lora_guidance_scale: float = field(
            default=1.0, metadata={"help": "of the adapted model; 1 is no guidance, as in the paper", "minimum": 0}
        )
        lora_rank: int = field(default=4, metadata={"help": "of the adapters", "minimum": 1})
        lora_lr: float = field(default=1e-4, metadata={"help": "of the adapters, AdamW", "above": 0})
        lora_weight_decay: float = field(default=1e-4, metadata={"help": "of the adapters", "minimum": 0})
        lora_loss_weight: float = field(default=1.0, metadata={"help": "what the adapters' loss is multiplied by", "above": 0})

    def __init__(self, prior: Prior, condition: Condition, options: Any):
        super().__init__(prior, condition, options)
        self.lora, self.parameters = prior.adapted(options.lora_rank)
        self.optimizer = torch.optim.AdamW(self.parameters, options.lora_lr, weight_decay=options.lora_weight_decay)

    def gradient(self, x: torch.Tensor, step: int, steps: int, generator: torch.Generator) -> torch.Tensor:
        found = self.difference(x, generator)
        self.optimizer.zero_grad()
        (self.options.lora_loss_weight * self.lora_loss(x, generator)).backward()
        self.optimizer.step()
        return found

    @torch.no_grad()
    def difference(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The gradient of VSD at particles x (B, ...), as x is:

            noise_prior(xt; condition, t) - noise_lora(xt; condition, t)                      (eq. 9, with w(t) = 1)

        with t and noise drawn for each particle.
        """
        xt, t, _ = self.prior.draw_state(x, generator)
        pretrained = self.prior.predict_noise(xt, t, self.condition, self.options.guidance_scale)
        return pretrained - self.lora.predict_noise(xt, t, self.condition, self.options.lora_guidance_scale)

    def lora_loss(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """How well the adapted model knows the noise of particles x (B, ...): the mean squared error of eq. 8, a scalar."""
        xt, t, noise = self.lora.draw_state(x, generator)
        return (self.lora.predict_noise(xt, t, self.condition) - noise).square().mean()

    def state_dict(self) -> dict[str, Any]:
        return {"lora": [value.detach() for value in self.parameters], "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for parameter, value in zip(self.parameters, state["lora"], strict=True):
            parameter.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
