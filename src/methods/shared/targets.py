"""Targets of a loss that a network makes: calls held fixed, the same dropout twice, and a copy that follows the network."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import nn


@contextmanager
def held_fixed(network: nn.Module, dropout: bool = False) -> Iterator[None]:
    """Inside the block calls of the network have no gradients and, without `dropout`, no dropout.

    Autocast keeps a weight that it has cast until its own block ends. Some releases of torch keep it from a call without
    gradients, too, and take it for later calls, from which the weights then learn nothing; inside this block nothing is kept.
    """
    device, training = next(network.parameters()).device.type, network.training
    anew = nullcontext()
    if torch.amp.is_autocast_available(device):  # as it is now, but that it casts weights anew for every call
        dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        anew = torch.autocast(device, dtype, enabled=enabled, cache_enabled=False)
    if not dropout:
        network.eval()
    try:
        with torch.no_grad(), anew:
            yield
    finally:
        if not dropout:
            network.train(training)


class Draws:
    """The random draws on a device from here on. `again()` lets them begin anew: two calls then drop out the same units."""

    def __init__(self, device: torch.device | str):
        device = torch.device(device)
        module = torch if device.type == "cpu" else getattr(torch, device.type)
        place = [] if device.type in ("cpu", "mps") else [device]
        self.again = partial(module.set_rng_state, module.get_rng_state(*place), *place)


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy of a network without dropout and gradients: a target network, which may follow it."""
    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average, a module like the network, towards it: it keeps `decay` of itself. Buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for mine, buffer in zip(average.buffers(), network.buffers(), strict=True):
        mine.copy_(buffer)
