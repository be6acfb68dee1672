"""What every network is that gives features of images, and the resizing that some share."""

from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import nn


class FeatureNetwork(nn.Module):
    """A frozen network that gives features.

    `columns`: their number. `modes`: the ways in which it takes images, by name. `source` says in words where the weights came
    from, `sha256` is the hash of the parameters or of their file; it and the mode name the features in the cache.
    """

    columns = 2048
    modes: tuple[str, ...]
    source, sha256 = "none", ""

    def features(self, pixels: torch.Tensor, mode: str) -> torch.Tensor:
        """Float pixels (B, 3, H, W) in 0..255 -> (B, columns)."""
        raise NotImplementedError


def resize(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Pixels (B, 3, H, W) in 0..255 resized to size x size by Pillow's bicubic filter in floating point, clipped, not rounded.

    A resize is linear and separable: two matrix products with Pillow's own coefficients, the same up to float32 rounding.
    """
    rows, columns = (_bicubic_matrix(length, size).to(pixels.device) for length in pixels.shape[2:])
    return (rows @ pixels @ columns.T).clamp(0, 255)


@lru_cache
def _bicubic_matrix(size: int, target: int) -> torch.Tensor:
    """Pillow's bicubic resize of a line of `size` pixels as a matrix (target, size): its answers to unit vectors."""
    units = Image.fromarray(np.eye(size, dtype=np.float32))
    return torch.from_numpy(np.array(units.resize((target, size), Image.Resampling.BICUBIC))).T
