"""Consistency mid-training (Hu, Lai, Mitsufuji, Ermon, ICLR 2026, arXiv:2509.24526)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.common.guidance import with_labels
from src.common.options import option
from src.methods.shared.karras_path import ConsistencyModel
from src.methods.shared.method import register, split_batch
from src.methods.shared.solvers import ORDERS, DistanceOptions, WithDistance, grid_of_calls, solve
from src.utils import expand_t

WEIGHTINGS = ("uniform", "edm")


@register("cmt")
class CMT(WithDistance, ConsistencyModel):
    """Learn from a teacher's solved trajectories: every point of one is mapped to its end.

    It is plain regression, a stage between diffusion training and consistency training: the result is a consistency model,
    which `--method consistency --init_from` goes on with. Trajectories start from noise, so no data are used, and their number
    has no end. A batch is made of trajectories of `points` points each, in contiguous rows; where points does not divide the
    batch, it is their greatest common divisor instead. The teacher solves nfe calls for batch / points noises: as much as one
    call for the batch where points = nfe.
    """

    cost = 1.6

    @dataclass
    class Config(DistanceOptions, ConsistencyModel.Config):
        mid_sigma: float = option(0.77569, "noise level of the second of two calls", minimum=0)
        nfe: int = option(16, "the teacher's calls, and points, of a trajectory", minimum=1)
        solver: str = option("dpmpp", "the teacher's: dpmpp is of second order", choices=tuple(ORDERS))
        points: int = option(16, "of a trajectory in a batch, whose size is a multiple of it", minimum=1)
        weighting: str = option(
            "uniform", "edm counts errors in units of c_out(sigma), the size of the network's share", choices=WEIGHTINGS
        )

        def validate(self) -> None:
            super().validate()
            if self.points > self.nfe:
                raise ValueError(f"expected points from 1 to nfe = {self.nfe}, got {self.points}")
            if (self.distance, self.weighting) == ("lpips", "edm"):
                raise ValueError("weighting edm divides images by a scale, of which lpips knows nothing: take huber or l2")

    def compute_loss(self, data: Tensor, noise: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The distance of f(x_i, sigma_i) and the trajectory's end, over the points i of trajectories (the paper's CMT loss).

        Of noise (B, ...), one row per trajectory is its start; of data only the shape counts. Returns a scalar.
        """
        xt, t, end, labels = self.trajectory_points(noise, labels)
        pred, scale = self.predict(xt, t, **with_labels(labels)), torch.ones_like(t)
        if self.config.weighting == "edm":
            scale = self.edm_weight(t).sqrt()
        scale = expand_t(scale, pred)
        losses = self.distance(scale * pred, scale * end)
        return self.report_losses(t, losses)

    @torch.no_grad()
    def trajectory_points(self, noise: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Points (B, ...) of the teacher's trajectories, their noise levels (B,), the trajectories' ends (B, ...) and labels.

        A trajectory has the label (B,) of the row that its noise is taken from. Points of one trajectory are spread evenly over
        its nfe levels, from a random first one.
        """
        config, batch, device = self.config, noise.shape[0], noise.device
        points = math.gcd(batch, config.points)
        starts = split_batch(batch, 1 / points)[0].to(device)
        levels = grid_of_calls(config.sigma_max, config.sigma_min, config.nfe, device)
        labels = None if labels is None else labels[starts]
        states = solve(self.taught(labels), levels[0] * noise[starts], levels, ORDERS[config.solver])

        own = torch.arange(len(starts), device=device).repeat_interleave(points)
        first = torch.randint(config.nfe, (batch,), device=device)[starts]
        index = (first[own] + torch.arange(batch, device=device) % points * config.nfe // points) % config.nfe
        labels = None if labels is None else labels[own]
        return torch.stack(states)[index, own], levels[index], states[-1][own], labels
