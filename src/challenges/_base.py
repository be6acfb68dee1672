"""What a challenge is to the rest of the kit: its data, its fixed network, what is sampled, what is measured, what passes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn


@dataclass(frozen=True)
class Requirement:
    """A figure that has to be reached: `metric` of `method` on the data set `data`, in `nfe` network calls, under `below`.

    who: whose bound it is, as the table of results names it.
    """

    method: str
    data: str
    nfe: int
    metric: str
    below: float
    who: str

    def passes(self, value: float) -> bool:
        return value < self.below

    def __str__(self) -> str:
        return f"{self.method} on {self.data}, NFE {self.nfe}: {self.metric} under {self.below:g} ({self.who})"


@dataclass(frozen=True)
class Challenge:
    """A task with everything fixed but the method.

    Args:
        data: name -> a function of (count, seed) that gives the array of that many samples; seeds differ in the draw alone.
        network: builds the fixed network; it takes use_additional_condition, and what else the challenge's network offers.
        nfe: the numbers of network calls that are sampled.
        num_samples: how many samples are compared with as many real ones.
        metrics: names of what is measured, the first the one that ranks.
        passes: what has to be reached.
    """

    name: str
    about: str
    data: Mapping[str, Callable[[int, int], np.ndarray]]
    network: Callable[..., nn.Module]
    nfe: tuple[int, ...]
    num_samples: int
    metrics: tuple[str, ...]
    passes: tuple[Requirement, ...] = ()


_REGISTRY: dict[str, Challenge] = {}


def register(challenge: Challenge) -> Challenge:
    """Make a challenge known by its name. Raises ValueError if another one has it."""
    if challenge.name in _REGISTRY:
        raise ValueError(f"challenge {challenge.name!r} is registered twice")
    _REGISTRY[challenge.name] = challenge
    return challenge


def get_challenge(name: str) -> Challenge:
    """The challenge of this name; ValueError naming all of them if there is none."""
    if name not in _REGISTRY:
        raise ValueError(f"unknown challenge {name!r}; expected one of {', '.join(challenge_names())}")
    return _REGISTRY[name]


def challenge_names() -> list[str]:
    return sorted(_REGISTRY)
