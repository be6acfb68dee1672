"""Standard normal noise that follows from one seed per image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class SeedBetween:
    """A seed between two others, wherever a sampler takes seeds: its noise is on the great circle from theirs to theirs.

    That is cos(a) first + sin(a) second with a = share * pi / 2: standard normal again, whatever the share, and among noise of
    many values, which is at right angles, the spherical interpolation (White, arXiv:1609.04468).

    Args:
        share: of the way, from 0, the first, to 1, the second.
    """

    first: int
    second: int
    share: float

    def __int__(self) -> int:
        """What seeds the global generators, which a sampler that takes seeds does not use."""
        return self.first


Seed = int | SeedBetween


def step_seed(*numbers: int) -> int:
    """One seed out of several numbers, such as the run's seed, the step, and the number of a draw within it.

    Zeros at the end make no difference: (seed, step, 0) is (seed, step).
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def image_seeds(seed: int, first: int, count: int) -> list[int]:
    """One 63-bit seed for each of the images first, first + 1, ... of a run with this seed, whatever the batch size."""
    return [int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> 1) for i in range(first, first + count)]


def draw_noise(shape: Sequence[int], device: torch.device, seeds: Sequence[Seed] | None = None, draw: int = 0) -> torch.Tensor:
    """Standard normal noise of this shape (B, ...), float32.

    With seeds, one per image, the noise of image i depends on seeds[i] and `draw` alone: not on the batch it is in, nor on the
    device. `draw` numbers the draws of a sampler that adds noise more than once. Without seeds, torch's global generator is
    used.

    Raises ValueError where the number of seeds is not B.
    """
    if seeds is None:
        return torch.randn(*shape, device=device)
    if len(seeds) != shape[0]:
        raise ValueError(f"expected {shape[0]} seeds, one per image, got {len(seeds)}")
    return torch.stack([_noise_of(seed, shape[1:], draw) for seed in seeds]).to(device)


def _noise_of(seed: Seed, shape: Sequence[int], draw: int) -> torch.Tensor:
    """The noise of one image, of this shape."""
    if isinstance(seed, SeedBetween):
        angle = seed.share * math.pi / 2
        first, second = (_noise_of(end, shape, draw) for end in (seed.first, seed.second))
        return math.cos(angle) * first + math.sin(angle) * second
    return torch.randn(*shape, generator=generator_of(seed, draw))


def generator_of(seed: int, draw: int) -> torch.Generator:
    """What draws number `draw` of the image with this seed."""
    return torch.Generator().manual_seed((int(seed) + draw * 0x9E3779B97F4A7C15) % 2**63)
