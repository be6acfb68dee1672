"""Small models and fixed weights that the tests share."""

import zlib

import numpy as np
import torch

from custom_model import create_custom_model
from src.methods import Method

TINY = {"ch": 8, "ch_mult": (1, 2), "attn": (1,), "num_res_blocks": 1}
SHAPE = (3, 16, 16)


@torch.no_grad()
def fill_by_rule(module: torch.nn.Module) -> torch.nn.Module:
    """Fill every parameter by the rule of the golden outputs: a normal draw seeded by the CRC of its name, scaled by fan-in."""
    for name, parameter in module.named_parameters():
        draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(tuple(parameter.shape))
        if parameter.ndim > 1:
            draw /= np.sqrt(np.prod(parameter.shape[1:]))
        else:
            draw = 0.1 * draw + (1 if name.endswith("weight") else 0)
        parameter.copy_(torch.from_numpy(draw))
    return module


def tiny_model(method: str = "custom", **options) -> Method:
    """A tiny model whose every layer matters (a fresh U-Net's output is nearly zero)."""
    model = create_custom_model(method=method, **{**TINY, **options})
    fill_by_rule(model.network)
    return model.eval()


def random_images(count: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
