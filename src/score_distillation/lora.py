"""Low-rank adapters (LoRA, Hu et al., ICLR 2022, arXiv:2106.09685) of the kit's own networks."""

import torch
from torch import nn


class LoRA(nn.Module):
    """A layer, a linear one or a convolution of 1x1, and beside it one of low rank: W x + B A x (eq. 3, with alpha = rank).

    A starts as Gaussian noise of deviation 1 / rank, B as zero, so that nothing changes before they are trained.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int):
        super().__init__()
        self.layer = layer
        kernel = layer.weight.shape[2:3]  # (1,) of a convolution
        self.down = type(layer)(layer.weight.shape[1], rank, *kernel, bias=False)
        self.up = type(layer)(rank, layer.weight.shape[0], *kernel, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)
        self.to(layer.weight.device)

    @property
    def weight(self) -> nn.Parameter:
        """That of the layer: networks ask for its type."""
        return self.layer.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.up(self.down(x))


def add_lora(network: nn.Module, rank: int) -> list[nn.Parameter]:
    """Put adapters beside all linear layers and convolutions of 1x1 of a network, in place; their parameters."""
    found: list[nn.Parameter] = []
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
                adapter = LoRA(layer, rank)
                setattr(parent, name, adapter)
                found += [adapter.down.weight, adapter.up.weight]
    return found
