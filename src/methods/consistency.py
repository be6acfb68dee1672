"""Consistency models (Song et al., arXiv:2303.01469): training as in iCT (arXiv:2310.14189) or ECT (arXiv:2406.14548)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.common.guidance import with_labels
from src.common.options import option
from src.methods.shared.karras_path import ConsistencyModel, ConsistencyOptions, KarrasPathScheduler
from src.methods.shared.method import register
from src.methods.shared.solvers import HUBER_C, heun_step, karras_grid, pseudo_huber
from src.methods.shared.student import Student, TeacherOptions
from src.methods.shared.targets import Draws


class ConsistencyScheduler(KarrasPathScheduler):
    """Noise levels on the Karras path, and the pairs of neighbouring levels t > r at which the model shall agree."""

    @dataclass
    class Config(ConsistencyOptions):
        P_mean: float = option(-1.1, "mean of the logarithm of training noise levels")
        P_std: float = option(2.0, "standard deviation of that logarithm", minimum=0)
        variant: str = option("ect", "how the gap between levels shrinks and losses weigh", choices=("ect", "ict"))
        q: float = option(2.0, "ect: the gap is t / q^stage times 1 + k sigmoid(-b t)", above=1)
        stages: int = option(8, "ect: stages of equal length; 1 keeps the gap fixed", minimum=1)
        k: float = option(8.0, "ect: how much wider the gap is at low levels", minimum=0)
        b: float = option(1.0, "ect: where low levels end", minimum=0)
        s0: int = option(10, "ict: steps of the first grid of levels", minimum=1)
        s1: int = option(1280, "ict: steps of the last grid, doubled up to", minimum=1)

        def validate(self) -> None:
            super().validate()
            if self.s0 > self.s1:
                raise ValueError(f"expected s0 of at most s1, got {self.s0} and {self.s1}")

    def pairs(self, batch_size: int, device: torch.device | str, step: int, total_steps: int) -> tuple[Tensor, Tensor]:
        """Levels t and the lower r, each (B,), of step number `step` (from 1) of total_steps."""
        config = self.config
        if config.variant == "ect":  # ECT, eq. 15
            stage = 1 + min((step - 1) * config.stages // max(total_steps, 1), config.stages - 1)
            t = self.sample_timesteps(batch_size, device)
            gap = (1 + config.k * torch.sigmoid(-config.b * t)) / config.q**stage
            return t, t * (1 - gap).clamp(min=0)
        levels = self.grid(step, total_steps).to(device)
        edges = torch.special.erf((levels.log() - config.P_mean) / (math.sqrt(2) * config.P_std))  # iCT, eq. 10
        cdf = (edges - edges[0]) / (edges[-1] - edges[0])
        index = torch.searchsorted(cdf[1:].contiguous(), torch.rand(batch_size, device=device)).clamp(max=len(levels) - 2)
        return levels[index + 1], levels[index]

    def grid(self, step: int, total_steps: int) -> Tensor:
        """iCT's levels at this step, rising from sigma_min to sigma_max: their number doubles at equal distances (eq. 12)."""
        config = self.config
        length = max(total_steps // (int(math.log2(config.s1 / config.s0)) + 1), 1)
        count = min(config.s0 * 2 ** ((step - 1) // length), config.s1)
        return karras_grid(config.sigma_max, config.sigma_min, count + 1, "cpu")[:-1].flip(0)


@register("consistency")
class Consistency(Student, ConsistencyModel):
    """Give the same image from every noise level of a trajectory, f(x_t, t) = f(x_r, r); at its end f is the identity.

    The trajectory goes through an image and its noise (consistency training), or with a teacher along that one's flow, in one
    step of Heun's method from t to r (consistency distillation, arXiv:2303.01469, algorithm 2). The teacher may be guided; the
    student then needs no guidance.
    """

    needs_teacher = False
    cost = 1.4
    Scheduler = ConsistencyScheduler

    @dataclass
    class Config(TeacherOptions, ConsistencyScheduler.Config):
        huber_c: float = option(-1.0, "pseudo-Huber constant; below 0: 0.00054 sqrt(values per image) for ict, 0 for ect")

    @property
    def boundary(self) -> float:
        return self.config.sigma_min if self.config.variant == "ict" else 0.0

    def compute_loss(
        self, data: Tensor, noise: Tensor, step: int = 1, total_steps: int = 1, labels: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Pseudo-Huber distance of the model at t and, without gradient, at r on the same path, weighted by 1 / (t - r).

        Both calls drop out the same units. data and noise (B, ...) -> scalar.
        """
        t, r = self.scheduler.pairs(data.shape[0], data.device, step, total_steps)
        draws = Draws(data.device)
        xt, label_kwargs = self.scheduler.forward_process(data, noise, t), with_labels(labels)
        pred = self.predict(xt, t, **label_kwargs)
        with torch.no_grad():
            if "teacher" in self.train_only:
                xr = heun_step(self.taught(labels, self.config.teacher_guidance), xt, t, r).to(xt.dtype)
            else:
                xr = self.scheduler.forward_process(data, noise, r)
            draws.again()
            target = self.predict(xr, r, **label_kwargs)
        c = self.config.huber_c
        if c < 0:
            c = HUBER_C * math.sqrt(data[0].numel()) if self.config.variant == "ict" else 0.0
        losses = pseudo_huber((pred - target).square().flatten(1).sum(dim=1), c) / (t - r)
        return self.report_losses(t, losses)
