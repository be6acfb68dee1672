"""The way of samples from noise to data: the states of a sampler, or the data that are predicted from them."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from src.common.classes import labels_in_turn
from src.common.cli import UserError
from src.common.noise import Seed

What = Literal["state", "denoised"]
WHATS: tuple[What, ...] = ("state", "denoised")


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

    what: "state", what the sampler has reached, as scaled_state gives it; or "denoised", the data that the model expects there:
    where one step from there to the end would lead. seeds: one per sample. classes: the labels that samples are made for in
    turn, of a model with classes; all by default.

    Raises UserError where there are fewer moments than asked for, or the model does not give its states and their times.
    """
    label_kwargs = labels_in_turn(model, 0, shape[0], classes)
    states = sampled_states(model, shape, steps, seeds, **label_kwargs)
    moments = equally_spaced(len(states), times)
    if what == "state":
        return [scaled_state(states[moment]) for moment in moments]
    return denoised_states(model, states, steps, moments, **label_kwargs)


@torch.no_grad()
def sampled_states(
    model: Any, shape: Sequence[int], steps: int, seeds: Sequence[Seed], **label_kwargs: Any
) -> list[torch.Tensor]:
    """Every state of sampling in `steps` network calls, from the noise to the samples, each of this shape.

    Raises UserError where the model does not give its states.
    """
    seed_kwargs = {"seeds": list(seeds)} if getattr(model, "takes_seeds", False) else {}
    states = model.sample(
        tuple(shape), num_inference_timesteps=steps, return_traj=True, verbose=False, **seed_kwargs, **label_kwargs
    )
    if not isinstance(states, (list, tuple)) or any(tuple(state.shape) != tuple(shape) for state in states):
        raise UserError("the model's sample() gives no list of states with return_traj=True")
    return list(states)


def scaled_state(state: torch.Tensor, most: float = 1.0) -> torch.Tensor:
    """A state (B, ...) whose root mean square is taken down to `most` where it is above: all noise levels are shown alike."""
    return state / (state.square().mean().sqrt() / most).clamp(min=1.0)


@torch.no_grad()
def denoised_states(
    model: Any, states: Sequence[torch.Tensor], steps: int, moments: Sequence[int], **label_kwargs: Any
) -> list[torch.Tensor]:
    """The data that the model expects at these moments, the last of them the samples, of all the states of `steps` steps.

    A network call each, but for the samples. Raises UserError where the model does not give its states' times.
    """
    grid = model.time_grid(steps) if hasattr(model, "time_grid") else ()
    if len(grid) != len(states):
        raise UserError("the model's sampler has no time_grid of its states' times: its denoised data cannot be shown")
    times, fresh = [t.expand(len(states[0])) for t in grid], partial(torch.randn_like, states[0])
    denoised = [model.sampling_step(states[moment], times[moment], times[-1], fresh, **label_kwargs) for moment in moments[:-1]]
    return [*denoised, states[-1]]


def equally_spaced(count: int, times: int) -> list[int]:
    """`times` of the numbers 0..count-1, equally spaced to rounding, the first and the last included. UserError for too few."""
    if count < times:
        raise UserError(f"{count - 1} steps have {count} states, fewer than the {times} to show: give more --steps")
    return np.linspace(0, count - 1, times).round().astype(int).tolist()
