"""Standard normal noise that follows from one seed per image."""

from collections.abc import Sequence

import numpy as np
import torch


def image_seeds(seed: int, first: int, count: int) -> list[int]:
    """One 63-bit seed for each of the images first, first + 1, ... of a run with this seed, whatever the batch size."""
    return [int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> 1) for i in range(first, first + count)]


def draw_noise(shape: Sequence[int], device: torch.device, seeds: Sequence[int] | None = None, draw: int = 0) -> torch.Tensor:
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
    images = []
    for seed in seeds:
        generator = torch.Generator().manual_seed((int(seed) + draw * 0x9E3779B97F4A7C15) % 2**63)
        images.append(torch.randn(*shape[1:], generator=generator))
    return torch.stack(images).to(device)
