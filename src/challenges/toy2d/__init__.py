"""Points in the plane: six sets, a small MLP, seconds of training on a CPU core. Where a method's errors can be seen.

--data_root names the set: swiss_roll, moons, s_curve, eight_gaussians, checkerboard or circle. Points are drawn, not read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from src.challenges.shared.challenge import Challenge, Mark, register
from src.challenges.toy2d.points import POINT_SETS
from src.common.cli import UserError

NUM_POINTS = 2048  # that are sampled, and compared with as many
SPLITS = {"train": (65536, 0), "val": (NUM_POINTS, 1)}  # number of points, seed
SLOW_TIME = {"time_scale": 10.0}  # points need no fine sense of time: smooth in it, the network errs less
DDPM_OPTIONS = {"time_scale": 30.0, "shift": 0.5}  # noise levels for data of deviation 2: equal steps then lie finer near them
ADVERSARIAL = {"sigma_data": 2.0, "mid_sigma": 3.3, "feature_sigma": 0.3, "r1_gamma": 0.5, "r1_interval": 4, "tell_level": True}
METHOD_OPTIONS: dict[str, dict[str, Any]] = {  # methods' own defaults are made for images in [-1, 1]
    "rectified_flow": SLOW_TIME,
    "ddpm": DDPM_OPTIONS,
    "shortcut": {**SLOW_TIME, "bootstrap_share": 0.25, "target_decay": 0.99},  # 5,000 steps are few for an average of 1,000
    # the weight that divides by the error makes means into medians: at 0.75 the eight clusters shrink with every further step
    "meanflow": {"norm_p": 0.4},
    # the points' standard deviation is 2, four times that of images, and so are all noise levels
    "edm": {**SLOW_TIME, "sigma_data": 2.0, "P_mean": 0.2, "solver": "euler"},
    "consistency": {**SLOW_TIME, "sigma_data": 2.0, "P_mean": 0.3, "mid_sigma": 3.3, "stages": 6},
    "reflow": SLOW_TIME,
    "progressive": DDPM_OPTIONS,
    "cmt": {**SLOW_TIME, "sigma_data": 2.0, "mid_sigma": 3.1},
    "ctm": {**SLOW_TIME, "sigma_data": 2.0, "P_mean": 0.2, "mu": 0.99},
    "gdd": {**SLOW_TIME, **ADVERSARIAL},
    "add": {**SLOW_TIME, **ADVERSARIAL, "distill_weight": 0.16, "distill_mean": 1.2},
    "ld3": {**SLOW_TIME, "sigma_data": 2.0, "lr_scale": 5.0},  # at ten times the usual learning rate
}
MLP_OPTIONS = {
    "hidden": {"help": "widths of the hidden layers", "minimum": 1},
    "frequencies": {"help": "of the sinusoids of time", "minimum": 1},
    "members": {"help": "independent networks trained as one", "minimum": 1},
}


class Affine(nn.Module):
    """`members` linear layers side by side. The bias is the weight's last row: that halves the time of forward derivatives."""

    def __init__(self, inputs: int, outputs: int, members: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(members, inputs + 1, outputs))
        for member in range(members):
            nn.init.xavier_uniform_(self.weight[member, :-1])

    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        """The parts of x (members, B, ...) side by side -> (members, B, outputs)."""
        return torch.bmm(torch.cat([*x, torch.ones_like(x[0][..., :1])], dim=-1), self.weight)


class ToyMLP(nn.Module):
    """An MLP with the U-Net's call: points (B, 2), time (B,) and, if built so, a second scalar (B,) -> (B, 2).

    Time and second scalar have the U-Net's sinusoids and one layer. Each channel is multiplied by a projection of it before
    every activation: added, as in the U-Net, it left stray points between the turns of the swiss roll (a Chamfer distance of 57
    instead of 18; rectified flow, NFE 50, one seed).

    Args:
        hidden: widths of the hidden layers.
        frequencies: of the sinusoids, from 1 down to nearly 1 / 10000.
        members: independent networks that are trained as one, each on an equal, contiguous part of the batch: a processor
            spends a single network's time on waiting for instructions.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (128, 128, 128),
        frequencies: int = 16,
        use_additional_condition: bool = False,
        members: int = 1,
    ):
        super().__init__()
        self.hidden, self.use_additional_condition, self.members = list(hidden), use_additional_condition, members
        scalars = 2 if use_additional_condition else 1
        spectrum = torch.exp(-math.log(10000) * torch.arange(frequencies) / frequencies)
        self.register_buffer("frequencies", torch.block_diag(*[spectrum] * scalars), persistent=False)  # (scalars, all)
        self.embedding = Affine(2 * scalars * frequencies, 2 * frequencies, members)
        self.scales = Affine(2 * frequencies, sum(hidden), members)  # of all layers in one
        nn.init.ones_(self.scales.weight[:, -1])
        self.layers = nn.ModuleList(Affine(before, width, members) for before, width in zip((2, *hidden), hidden, strict=False))
        self.tail = Affine(hidden[-1], 2, members)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """x (B, 2), timestep (B,) of any real scale, condition (B,) exactly when built for it -> (B, 2).

        Raises ValueError for a condition that is missing or not asked for, and for a batch that the members cannot divide.
        """
        if self.use_additional_condition and condition is None:
            raise ValueError("a network built with use_additional_condition=True needs a condition (B,)")
        if not self.use_additional_condition and condition is not None:
            raise ValueError("a condition was given to a network built with use_additional_condition=False")
        if len(x) % self.members:
            raise ValueError(f"a batch of {len(x)} cannot be divided among {self.members} networks")
        scalars = torch.stack([timestep] if condition is None else [timestep, condition], dim=1).to(x.dtype)
        angles = torch.mm(scalars, self.frequencies).reshape(self.members, -1, self.frequencies.shape[1])
        temb = F.silu(self.embedding(angles.cos(), angles.sin()))
        x = x.reshape(self.members, -1, 2)
        for layer, scale in zip(self.layers, self.scales(temb).split(self.hidden, dim=-1), strict=True):
            x = F.silu(layer(x) * scale)
        return self.tail(x).reshape(-1, 2)


def load_points(split: str, root: str | Path) -> tuple[np.ndarray, None]:
    """The points of a split of the set named root: float32 (N, 2). Raises UserError where there is no such set."""
    if str(root) not in POINT_SETS:
        raise UserError(f"no set of points {str(root)!r}; expected one of {', '.join(POINT_SETS)} (--data_root)")
    return POINT_SETS[str(root)](*SPLITS[split]), None


@dataclass(frozen=True, kw_only=True, eq=False)
class PointChallenge(Challenge):
    """A challenge of points (2,), stored as float32."""

    batch_size = cpu_batch_size = NUM_POINTS
    preview_samples = 512

    def to_array(self, samples: torch.Tensor) -> np.ndarray:
        return samples.detach().float().cpu().numpy()

    def write(self, samples: torch.Tensor, folder: Path, first: int = 0) -> None:
        """Write points (B, 2) as points_00000000.npy, named by the number of the first."""
        np.save(folder / f"points_{first:08d}.npy", self.to_array(samples))

    def read(self, folder: Path) -> np.ndarray:
        """All points of a folder's files *.npy, in the order of their names: float32 (N, 2). Raises UserError without any."""
        try:
            points = [np.load(file) for file in sorted(Path(folder).glob("*.npy"))]
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{folder}: not arrays of points ({error})") from error
        if not points:
            raise UserError(f"{folder}: no points (*.npy)")
        if wrong := next((part.shape for part in points if part.ndim != 2 or part.shape[1] != 2), None):
            raise UserError(f"{folder}: expected points (N, 2), got an array {wrong}")
        return np.concatenate(points).astype(np.float32)

    def check(self, folder: Path, count: int) -> None:
        if len(points := self.read(folder)) != count:
            raise UserError(f"{folder} holds {len(points)} points, expected {count}")

    def picture(self, rows: Sequence[np.ndarray], captions: Sequence[str]) -> Image.Image:
        """The points of each row in a square of their own, side by side."""
        from src.common.figures import Figure, as_picture

        figure = Figure(figsize=(2.4 * len(rows), 2.6), dpi=100, layout="constrained")
        for axis, points, caption in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, captions, strict=True):
            axis.scatter(*points.T, s=2, linewidths=0)
            axis.set(xlim=(-5, 5), ylim=(-5, 5), aspect="equal", title=caption)
        return as_picture(figure)

    def read_reference(self, root: str | Path, folder: str | Path) -> np.ndarray:
        """The held-out points of the set named root: float32 (M, 2). Raises UserError for a folder, which is not read."""
        if str(folder):
            raise UserError(f"--reference_dir {folder}: points are measured against those of --data_root; leave it out")
        return self.load("val", root)[0]

    def measure(
        self,
        samples: np.ndarray,
        reference: np.ndarray,
        feature_network: None = None,
        *,
        metrics: Sequence[str] | None = None,
        **unused: Any,
    ) -> dict[str, float]:
        """Distances of points (N, 2) from the reference (M, 2), by name; nothing of them is worth sharing out."""
        from src.evaluation import points

        distances = {"chamfer": points.chamfer, "sliced_w2": points.sliced_wasserstein, "mmd": points.mmd}
        try:
            return {name: distances[name](samples, reference) for name in metrics or self.metrics}
        except ValueError as error:
            raise UserError(f"these points cannot be measured: {error}") from error


TOY2D = register(
    PointChallenge(
        name="toy2d",
        about="six sets of points in the plane, each of mean 0 and standard deviation 2",
        shape=(2,),
        load=load_points,
        default_root="swiss_roll",
        network=ToyMLP,
        network_options=MLP_OPTIONS,
        nfe=(1, 2, 4, 50),
        num_samples=NUM_POINTS,
        metrics={"chamfer": "Chamfer distance", "sliced_w2": "sliced Wasserstein-2 distance", "mmd": "squared MMD"},
        training={
            "batch_size": 128,
            "num_iterations": 5000,
            "lr": 1e-3,
            "lr_warmup": 0,
            "lr_decay": 0.5,  # without, DDIM ends farther from the points at NFE 50
            "ema_half_lives": [0.02],
            "flip": False,
            "log_interval": 250,
            "save_interval": 2500,
        },
        method_options=METHOD_OPTIONS,
        marks=(
            Mark("chamfer", 60, 50, "the course's exercise, DDIM", root="swiss_roll", method="ddpm"),
            Mark("chamfer", 20, 50, "this kit's own bound", root="swiss_roll", method="ddpm"),
        ),
    )
)
