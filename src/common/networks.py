"""What is asked of a network by the names of its modules: those of the weights in a checkpoint, all that a course fixes."""

import contextlib

import torch
from torch import nn

from src.module import DownSample


def takes_condition(network: nn.Module) -> bool:
    """Whether a network takes a second scalar per sample beside the time."""
    return getattr(network, "use_additional_condition", hasattr(network, "condition_embedding"))


def per_image(scalar: torch.Tensor | float, x: torch.Tensor) -> torch.Tensor:
    """One scalar per image of x (B, ...): (B,) as it is, a number or a tensor of one repeated. ValueError for any other."""
    scalar = torch.as_tensor(scalar, device=x.device).reshape(-1)
    if len(scalar) not in (1, len(x)):
        raise ValueError(f"expected one time or condition, or one per image of {len(x)}, got {len(scalar)}")
    return scalar.expand(len(x))


def halvings(network: nn.Module) -> int:
    """How often a U-Net halves height and width."""
    return sum(isinstance(block, DownSample) for block in network.downblocks)


def embed(
    network: nn.Module, timestep: torch.Tensor, condition: torch.Tensor | None = None, labels: torch.Tensor | None = None
) -> torch.Tensor:
    """A U-Net's embedding of time, condition and labels, each (B,): (B, 4 ch), in the precision of the weights under autocast.

    A network with classes takes images without labels as of no class.
    """
    device = timestep.device.type
    with torch.autocast(device, enabled=False) if device != "meta" else contextlib.nullcontext():
        temb = network.time_embedding(timestep)
        if condition is not None:
            temb = network.condition_fusion(torch.cat([temb, network.condition_embedding(condition)], dim=-1))
    class_embedding = getattr(network, "class_embedding", None)
    if class_embedding is None:
        return temb
    if labels is None:
        labels = torch.zeros(len(temb), dtype=torch.int64, device=temb.device)
    return temb + class_embedding(labels)
