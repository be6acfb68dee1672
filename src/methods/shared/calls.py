"""Calls of a network that a loss makes beside the one that learns: held fixed, without dropout, or with the same dropout."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType

import torch
from torch import nn


@contextmanager
def held_fixed(network: nn.Module, dropout: bool = False) -> Iterator[None]:
    """Inside the block calls of the network have no gradients and, without `dropout`, no dropout: for targets of a loss.

    Autocast keeps a weight that it has cast until its own block ends. Some releases of torch keep it from a call without
    gradients, too, and take it for later calls, from which the weights then learn nothing; inside this block nothing is kept.
    """
    device, training = next(network.parameters()).device.type, network.training
    if not dropout:
        network.eval()
    try:
        with torch.no_grad(), _without_cache(device):
            yield
    finally:
        if not dropout:
            network.train(training)


def _without_cache(device: str) -> torch.autocast | nullcontext:
    """Autocast as it is now on this kind of device, but that it casts weights anew for every call."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return torch.autocast(device, dtype, enabled=enabled, cache_enabled=False)


class Draws:
    """The random draws on a device from here on, which `again` lets begin anew: two calls then drop out the same units."""

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)
        module, place = self._generator()
        self._state = module.get_rng_state(*place)

    def again(self) -> None:
        """Draw from here on what was drawn since this object was made."""
        module, place = self._generator()
        module.set_rng_state(self._state, *place)

    def _generator(self) -> tuple[ModuleType, list[torch.device]]:
        """The module of torch that has the device's random state, and how it is told which device."""
        if self.device.type == "cpu":
            return torch, []
        return getattr(torch, self.device.type), [] if self.device.type == "mps" else [self.device]
