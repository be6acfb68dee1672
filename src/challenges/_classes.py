"""The U-Net with classes: a label is one more embedding beside the time."""

from collections.abc import Sequence

import torch
from torch import nn

from src.module import ResBlock
from src.network import UNet, per_image


class ClassUNet(UNet):
    """The U-Net, to whose embedding of the time that of a label is added.

    Without classes it is the U-Net itself, with the same names and shapes.

    Args:
        num_classes: labels are 1..num_classes, and 0 is "no class"; 0: the network takes no labels.
    """

    def __init__(
        self,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        attn: Sequence[int] = (1,),
        num_res_blocks: int = 4,
        dropout: float = 0.1,
        use_additional_condition: bool = False,
        num_classes: int = 0,
    ):
        super().__init__(ch, ch_mult, attn, num_res_blocks, dropout, use_additional_condition)
        self.num_classes = num_classes
        if num_classes:
            self.class_embedding = nn.Embedding(num_classes + 1, 4 * ch)

    def embed(self, timestep: torch.Tensor, condition: torch.Tensor | None, labels: torch.Tensor | None = None) -> torch.Tensor:
        """The embedding of time, condition and labels, all (B,): (B, 4 ch). Without labels no image has a class.

        Raises ValueError for labels where there are no classes.
        """
        temb = super().embed(timestep, condition)
        if not self.num_classes:
            if labels is not None:
                raise ValueError("labels were given to a network without classes")
            return temb
        if labels is None:
            labels = torch.zeros(len(temb), dtype=torch.int64, device=temb.device)
        return temb + self.class_embedding(labels)

    def forward(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor | float,
        condition: torch.Tensor | float | None = None,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As the U-Net's, with labels (B,), int64, beside the time: (B, C, H, W) -> (B, C, H, W)."""
        if not self.num_classes and labels is None:
            return super().forward(x, timestep, condition)
        if x.shape[-1] % self.scale or x.shape[-2] % self.scale:
            raise ValueError(f"height and width must be multiples of {self.scale}, got {tuple(x.shape)}")
        temb = self.embed(per_image(timestep, x), None if condition is None else per_image(condition, x), labels)
        h = self.head(x)
        skips = [h]
        for block in self.downblocks:
            h = block(h, temb)
            skips.append(h)
        for block in self.middleblocks:
            h = block(h, temb)
        for block in self.upblocks:
            h = block(torch.cat([h, skips.pop()], dim=1) if isinstance(block, ResBlock) else h, temb)
        return self.tail(h).contiguous()
