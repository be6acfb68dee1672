"""The way of samples from noise to data: the states of a sampler, or the data that are predicted from them."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from src.common.classes import labels_in_turn
from src.common.cli import UserError

What = Literal["state", "denoised"]
WHATS: tuple[What, ...] = ("state", "denoised")


@torch.no_grad()
def trajectory(
    model: Any,
    shape: Sequence[int],
    steps: int,
    seeds: Sequence[int],
    times: int,
    what: What = "state",
    classes: Sequence[int] | None = None,
) -> list[torch.Tensor]:
    """`times` moments of sampling in `steps` network calls, equally spaced from the noise to the samples, each of this shape.

    what: "state", what the sampler has reached, divided by its root mean square where that is above 1, so that all noise levels
    can be shown alike; or "denoised", the data that the model expects there: where one step from there to the end would lead.
    seeds: one per sample. classes: the labels that samples are made for in turn, of a model with classes; all by default.

    Raises UserError where there are fewer moments than asked for, or the model does not tell its states and their times.
    """
    more = {"seeds": list(seeds)} if getattr(model, "takes_seeds", False) else {}
    told = labels_in_turn(model, 0, shape[0], classes)
    states = model.sample(tuple(shape), num_inference_timesteps=steps, return_traj=True, verbose=False, **more, **told)
    if not isinstance(states, (list, tuple)) or any(tuple(state.shape) != tuple(shape) for state in states):
        raise UserError("the model's sample() gives no list of states with return_traj=True")
    moments = equally_spaced(len(states), times)
    if what == "state":
        return [states[moment] / states[moment].square().mean().sqrt().clamp(min=1.0) for moment in moments]

    grid = model.time_grid(steps) if hasattr(model, "time_grid") else ()
    if len(grid) != len(states):
        raise UserError("the model's sampler has no time_grid of its states' times: its denoised data cannot be told")
    end, fresh = grid[-1].expand(shape[0]), lambda: torch.randn(*shape, device=grid.device)
    found = [model.sampling_step(states[moment], grid[moment].expand(shape[0]), end, fresh, **told) for moment in moments[:-1]]
    return [*found, states[-1]]


def equally_spaced(count: int, times: int) -> list[int]:
    """`times` of the numbers 0..count-1, equally spaced to rounding, the first and the last included. UserError for too few."""
    if count < times:
        raise UserError(f"{count - 1} steps have {count} states, fewer than the {times} to show: give more --steps")
    return np.linspace(0, count - 1, times).round().astype(int).tolist()
