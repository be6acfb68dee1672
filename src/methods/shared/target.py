"""The target network: a frozen copy of the network that follows it slowly."""

import copy

import torch
from torch import nn


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy of a network without dropout and gradients."""
    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average, a module like the network, towards it: it keeps `decay` of itself. Buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for mine, buffer in zip(average.buffers(), network.buffers(), strict=True):
        mine.copy_(buffer)
