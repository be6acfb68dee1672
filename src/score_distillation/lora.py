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
        if isinstance(layer, nn.Linear):
            self.down = nn.Linear(layer.in_features, rank, bias=False)
            self.up = nn.Linear(rank, layer.out_features, bias=False)
        else:
            self.down = nn.Conv2d(layer.in_channels, rank, 1, bias=False)
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
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
    """Put adapters beside all linear layers and convolutions of 1x1 of a network, in place; their parameters.

    In the kit's U-Nets those are the projections of attention and of embeddings, and the shortcuts between widths.
    """
    found: list[nn.Parameter] = []
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
                adapter = LoRA(layer, rank)
                setattr(parent, name, adapter)
                found += [adapter.down.weight, adapter.up.weight]
    return found
