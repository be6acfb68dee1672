"""Consistency mid-training (Hu, Lai, Mitsufuji, Ermon, ICLR 2026, arXiv:2509.24526)."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from src.common.guidance import with_labels
from src.methods.shared.consistency_model import ConsistencyModel
from src.methods.shared.distances import DISTANCES, distance, load_lpips
from src.methods.shared.karras_path import grid_of_calls
from src.methods.shared.method import Method, register, split_batch
from src.methods.shared.solvers import ORDERS, solve
from src.methods.shared.student import Student
from src.utils import expand_t

WEIGHTINGS = ("uniform", "edm")


@register("cmt")
class CMT(Student, ConsistencyModel):
    """Learn from a teacher's solved trajectories: every point of one is mapped to its end.

    It is plain regression, a stage between diffusion training and consistency training: the result is a consistency model,
    which `--method consistency --init_from` goes on with. Trajectories start from noise, so no data are used, and their number
    has no end. A batch is made of trajectories of `points` points each, in contiguous rows; where points does not divide the
    batch, their greatest common divisor takes its place. The teacher solves nfe calls for batch / points noises: as much as one
    call for the batch where points = nfe.
    """

    @dataclass
    class Config(ConsistencyModel.Config):
        mid_sigma: float = field(default=0.77569, metadata={"help": "noise level of the second of two calls", "minimum": 0})
        nfe: int = field(default=16, metadata={"help": "the teacher's calls, and points, of a trajectory", "minimum": 1})
        solver: str = field(
            default="dpmpp", metadata={"help": "the teacher's: dpmpp is of second order", "choices": tuple(ORDERS)}
        )
        points: int = field(
            default=16, metadata={"help": "of a trajectory in a batch, whose size is a multiple of it", "minimum": 1}
        )
        distance: str = field(
            default="huber", metadata={"help": "lpips, the authors', needs that package and 64x64", "choices": DISTANCES}
        )
        weighting: str = field(
            default="uniform",
            metadata={
                "help": "edm counts errors in units of c_out(sigma), the size of the network's share",
                "choices": WEIGHTINGS,
            },
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.points > self.nfe:
                raise ValueError(f"expected points from 1 to nfe = {self.nfe}, got {self.points}")
            if (self.distance, self.weighting) == ("lpips", "edm"):
                raise ValueError("weighting edm divides images by a scale, which lpips cannot judge: take huber or l2")

    def set_teacher(self, teacher: Method) -> None:
        super().set_teacher(teacher)
        if self.config.distance == "lpips":
            self.train_only["lpips"] = load_lpips(self.device)

    def compute_loss(
        self, data: torch.Tensor, noise: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """The distance of f(x_i, sigma_i) and the trajectory's end, over the points i of trajectories (the paper's CMT loss).

        Of noise (B, ...), one row per trajectory is its start; of data only the shape counts. Returns a scalar.
        """
        xt, t, end, labels = self.trajectory_points(noise, labels)
        pred, scale = self.predict(xt, t, **with_labels(labels)), torch.ones_like(t)
        if self.config.weighting == "edm":
            scale = self.edm_weight(t).sqrt()
        scale = expand_t(scale, pred)
        losses = distance(self.config.distance, scale * pred, scale * end, self.train_only.get("lpips"))
        self.report_losses(t, losses)
        return losses.mean()

    @torch.no_grad()
    def trajectory_points(
        self, noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
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
