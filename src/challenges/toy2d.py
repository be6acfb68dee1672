"""Points in the plane: six sets, a small MLP, seconds of training on a CPU core. Where a method's errors can be seen."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from src.challenges._base import Challenge, Requirement, register
from src.challenges._points import POINT_SETS


class Affine(nn.Module):
    """`members` linear layers side by side, each with its bias as a last row of its weight.

    With the bias in the weight, forward-mode derivatives take half the time of nn.Linear's.
    """

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

    Time and second scalar have the U-Net's sinusoids and one layer. Before every activation each channel is multiplied by a
    projection of it: added instead, as in the U-Net, it left stray points between the turns of the swiss roll, a Chamfer
    distance of 57 instead of 18 (rectified flow, NFE 50, one seed).

    So small a network leaves a processor waiting for instructions, not for arithmetic. Therefore several can be trained as one:
    with `members` above 1 it is that many networks of independent weights, and each has an equal, contiguous part of the batch.

    Args:
        hidden: widths of the hidden layers.
        frequencies: of the sinusoids, from 1 down to nearly 1 / 10000.
        use_additional_condition: take a second scalar a point beside the time.
        members: independent networks; the batch must be a multiple of it.
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


TOY2D = register(
    Challenge(
        name="toy2d",
        about="six sets of points in the plane, each of mean 0 and standard deviation 2",
        data=POINT_SETS,
        network=ToyMLP,
        nfe=(1, 2, 4, 50),
        num_samples=2048,
        metrics=("chamfer", "sliced_w2", "mmd"),
        passes=(
            Requirement("ddpm", "swiss_roll", 50, "chamfer", 60, "the course's exercise, DDIM"),
            Requirement("ddpm", "swiss_roll", 50, "chamfer", 20, "this kit's own bound"),
        ),
    )
)
