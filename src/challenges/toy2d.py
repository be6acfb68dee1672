"""Points in the plane: six sets, a small MLP, seconds of training on a CPU core. Where a method's errors can be seen."""

from collections.abc import Sequence

import torch
from torch import nn

from src.challenges._base import Challenge, Requirement, register
from src.challenges._points import POINT_SETS
from src.module import Swish, TimeEmbedding, init_layer


class ToyMLP(nn.Module):
    """An MLP with the U-Net's call: points (B, 2), time (B,) and, if built so, a second scalar (B,) -> (B, 2).

    The time has the U-Net's embedding, a sinusoid and two layers, and is added before every activation.

    Args:
        hidden: widths of the hidden layers.
        use_additional_condition: take a second scalar a point beside the time.
    """

    def __init__(self, hidden: Sequence[int] = (128, 128, 128), use_additional_condition: bool = False):
        super().__init__()
        self.use_additional_condition = use_additional_condition
        size = hidden[0]
        self.time_embedding = TimeEmbedding(size, frequency_size=size)
        if use_additional_condition:
            self.condition_embedding = TimeEmbedding(size, frequency_size=size)
            self.condition_fusion = nn.Sequential(
                init_layer(nn.Linear(2 * size, size)), Swish(), init_layer(nn.Linear(size, size))
            )
        self.layers = nn.ModuleList(
            init_layer(nn.Linear(before, width)) for before, width in zip((2, *hidden), hidden, strict=False)
        )
        self.times = nn.ModuleList(init_layer(nn.Linear(size, width)) for width in hidden)
        self.tail = init_layer(nn.Linear(hidden[-1], 2))

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """x (B, 2), timestep (B,) of any real scale, condition (B,) exactly when built for it -> (B, 2).

        Raises ValueError for a condition that is missing or not asked for.
        """
        if self.use_additional_condition and condition is None:
            raise ValueError("a network built with use_additional_condition=True needs a condition (B,)")
        if not self.use_additional_condition and condition is not None:
            raise ValueError("a condition was given to a network built with use_additional_condition=False")
        temb = self.time_embedding(timestep)
        if condition is not None:
            temb = self.condition_fusion(torch.cat([temb, self.condition_embedding(condition)], dim=-1))
        temb = nn.functional.silu(temb)
        for layer, time in zip(self.layers, self.times, strict=True):
            x = nn.functional.silu(layer(x) + time(temb))
        return self.tail(x)


TOY2D = register(
    Challenge(
        name="toy2d",
        about="six sets of points in the plane, each of mean 0 and standard deviation 2",
        data=POINT_SETS,
        network=lambda use_additional_condition: ToyMLP(use_additional_condition=use_additional_condition),
        nfe=(1, 2, 4, 50),
        num_samples=2048,
        metrics=("chamfer", "sliced_w2", "mmd"),
        passes=(
            Requirement("ddpm", "swiss_roll", 50, "chamfer", 60, "the course's exercise, DDIM"),
            Requirement("ddpm", "swiss_roll", 50, "chamfer", 20, "this kit's own bound"),
        ),
    )
)
