"""Score distillation via inversion (SDI; Lukoianov et al., NeurIPS 2024, arXiv:2405.15891).

In the variable x0(t), the data that the model predicts at t, DDIM is SDS but for the noise: SDS draws it anew, DDIM has the one
that leads to x0(t). So it is looked for by DDIM's steps in the opposite direction, inversion, and t falls as in sampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from src.common.options import Options
from src.score_distillation.loss import SCALE_HELP, Loss
from src.score_distillation.prior import Condition, Prior, draw_like


def time_grid(t: int, steps: int) -> list[int]:
    """The times from 0 to t, both included, in equal steps, rounded; fewer where there are not so many."""
    return sorted({round(t * i / steps) for i in range(steps + 1)})


@torch.no_grad()
def ddim(
    x: torch.Tensor,
    times: Sequence[int],
    condition: Condition,
    prior: Prior,
    guidance_scale: float,
    generator: torch.Generator,
    eta: float = 0.0,
) -> torch.Tensor:
    """The state at the last time, of x (B, ...) at the first, by DDIM (arXiv:2010.02502, eq. 12); rising times are inversion.

    With eta above 0 that share of the predicted noise is replaced by fresh noise of eq. 16's deviation for the two times.
    """
    for now, then in pairwise(times):
        t, t_next = (torch.full((len(x),), time, device=x.device) for time in (now, then))
        noise = prior.predict_noise(x, t, condition, guidance_scale)
        data = prior.predict_data(x, noise, t)
        if eta:
            clean, noisy = prior.alpha_bar[min(now, then)], prior.alpha_bar[max(now, then)]
            variance = eta**2 * (1 - clean) / (1 - noisy) * (1 - noisy / clean)  # sigma^2 of eq. 16
            share = variance / (1 - prior.alpha_bar[then])
            noise = (1 - share).sqrt() * noise + share.sqrt() * draw_like(x, generator)
        x = prior.add_noise(data, noise, t_next)
    return x


class SDI(Loss):
    """The gradient is x - target. A target is kept for some steps; t falls evenly over the times of the prior."""

    @dataclass
    class Config(Options):
        guidance_scale: float = field(default=7.5, metadata={"help": SCALE_HELP, "minimum": 0})
        inversion_guidance_scale: float = field(default=-7.5, metadata={"help": "of the inversion; below 0: away"})
        inversion_n_steps: int = field(default=10, metadata={"help": "steps of the inversion", "minimum": 1})
        inversion_eta: float = field(default=0.3, metadata={"help": "noise added in the inversion", "minimum": 0, "maximum": 1})
        sdi_update_interval: int = field(default=25, metadata={"help": "steps for which a target is kept", "minimum": 1})

    target: torch.Tensor | None = None

    def gradient(self, x: torch.Tensor, step: int, steps: int, generator: torch.Generator) -> torch.Tensor:
        if self.target is None or (step - 1) % self.options.sdi_update_interval == 0:
            low, high = self.prior.t_range
            self.target = self.target_at(x, round(high - (high - low) * (step - 1) / steps), generator)
        return x - self.target

    @torch.no_grad()
    def target_at(self, x: torch.Tensor, time: int, generator: torch.Generator) -> torch.Tensor:
        """What latents x (B, ...) are led to at this time, from 1 on: x0(t) of the state that x is inverted to. As x is."""
        options, t = self.options, torch.full((len(x),), time, device=x.device)
        times, scale = time_grid(time, options.inversion_n_steps), options.inversion_guidance_scale
        state = ddim(x, times, self.condition, self.prior, scale, generator, options.inversion_eta)
        noise = self.prior.predict_noise(state, t, self.condition, options.guidance_scale)
        return self.prior.predict_data(state, noise, t)

    def state_dict(self) -> dict[str, Any]:
        return {"target": self.target}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.target = None if state["target"] is None else state["target"].to(self.prior.device)
