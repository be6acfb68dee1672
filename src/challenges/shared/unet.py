"""The kit's own U-Net: that of the course's challenge in any width, for images of any size, and with classes.

It has the names and shapes of the course's network, so that checkpoints fit both, but blocks of its own: a course may replace
src/network.py and src/module.py by files that are made for 128 channels and know no classes.
"""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import nn

from src.common.networks import embed, halvings, per_image
from src.module import DownSample, Swish, TimeEmbedding, UpSample

SMALL_UNET = {"ch": 32, "ch_mult": (1, 2, 2), "attn": (1,), "num_res_blocks": 1, "dropout": 0.0}  # for 32x32 on a laptop


def init_layer(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> nn.Conv2d | nn.Linear:
    """Xavier-uniform weights and a zero bias; a gain near zero makes a residual branch start as nothing."""
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups, in narrow networks fewer: one of a single channel would remove the time that is added to it."""
    return nn.GroupNorm(math.gcd(32, channels // 4, channels), channels)


class AttnBlock(nn.Module):
    """Single-head self-attention over the positions of a feature map, added to its input.

    Two matrix products and a softmax have the forward-mode derivatives that some methods need; fused kernels lack them.
    """

    def __init__(self, in_ch: int):
        super().__init__()
        self.group_norm = group_norm(in_ch)
        self.proj_q, self.proj_k, self.proj_v = (init_layer(nn.Conv2d(in_ch, in_ch, 1)) for _ in range(3))
        self.proj = init_layer(nn.Conv2d(in_ch, in_ch, 1), gain=1e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        h = self.group_norm(x)
        q = self.proj_q(h).flatten(2).transpose(1, 2)  # (B, HW, C)
        k = self.proj_k(h).flatten(2)  # (B, C, HW)
        v = self.proj_v(h).flatten(2).transpose(1, 2)
        weights = torch.softmax(torch.bmm(q * channels**-0.5, k), dim=-1)  # (B, HW, HW)
        h = torch.bmm(weights.to(v.dtype), v).transpose(1, 2).reshape(batch, channels, height, width)
        return x + self.proj(h)


class ResBlock(nn.Module):
    """Norm, Swish, conv; add the projected time; norm, Swish, dropout, conv; add the input; optional attention."""

    def __init__(self, in_ch: int, out_ch: int, tdim: int, dropout: float, attn: bool = False):
        super().__init__()
        self.block1 = nn.Sequential(group_norm(in_ch), Swish(), init_layer(nn.Conv2d(in_ch, out_ch, 3, padding=1)))
        self.temb_proj = nn.Sequential(Swish(), init_layer(nn.Linear(tdim, out_ch)))
        self.block2 = nn.Sequential(
            group_norm(out_ch),
            Swish(),
            nn.Dropout(dropout),
            init_layer(nn.Conv2d(out_ch, out_ch, 3, padding=1), gain=1e-5),
        )
        self.shortcut = nn.Identity() if in_ch == out_ch else init_layer(nn.Conv2d(in_ch, out_ch, 1))
        self.attn = AttnBlock(out_ch) if attn else nn.Identity()

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        h = self.block2(self.block1(x) + self.temb_proj(temb)[:, :, None, None])
        return self.attn(self.shortcut(x) + h)


class ClassUNet(nn.Module):
    """The U-Net, with the embedding of a label added to that of the time. Without classes it computes what the course's does.

    num_classes: labels are 1..num_classes, and 0 is "no class"; 0: the network takes no labels. All others as of src.network.

    Raises ValueError where no level is named, or attention at an absent one.
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
        super().__init__()
        if not ch_mult:
            raise ValueError("ch_mult names no level")
        if any(not 0 <= level < len(ch_mult) for level in attn):
            raise ValueError(f"attn {list(attn)} names a level outside 0..{len(ch_mult) - 1}")
        self.use_additional_condition = use_additional_condition
        self.num_classes = num_classes
        time_size = 4 * ch

        self.time_embedding = TimeEmbedding(time_size)
        if use_additional_condition:
            self.condition_embedding = TimeEmbedding(time_size)
            self.condition_fusion = nn.Sequential(
                init_layer(nn.Linear(2 * time_size, time_size)), nn.SiLU(), init_layer(nn.Linear(time_size, time_size))
            )

        self.head = init_layer(nn.Conv2d(3, ch, 3, padding=1))
        channels, skips = ch, [ch]
        self.downblocks = nn.ModuleList()
        for level, multiple in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.downblocks.append(ResBlock(channels, ch * multiple, time_size, dropout, attn=level in attn))
                channels = ch * multiple
                skips.append(channels)
            if level < len(ch_mult) - 1:
                self.downblocks.append(DownSample(channels))
                skips.append(channels)

        self.middleblocks = nn.ModuleList(ResBlock(channels, channels, time_size, dropout, level) for level in (True, False))

        self.upblocks = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(ResBlock(channels + skips.pop(), ch * multiple, time_size, dropout, attn=level in attn))
                channels = ch * multiple
            if level > 0:
                self.upblocks.append(UpSample(channels))
        self.tail = nn.Sequential(group_norm(channels), Swish(), init_layer(nn.Conv2d(channels, 3, 3, padding=1), gain=1e-5))
        if num_classes:
            self.class_embedding = nn.Embedding(num_classes + 1, time_size)

    @property
    def multiple(self) -> int:
        """What height and width must be multiples of."""
        return 2 ** halvings(self)

    def forward(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor | float,
        condition: torch.Tensor | float | None = None,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict a quantity of the shape of x (B, C, H, W), contiguous; H and W are multiples of `multiple`.

        timestep is (B,), or one for all images, of any real scale, and so is the condition, which a network that was not built
        with use_additional_condition ignores with a warning. labels: (B,), int64; without them no image has a class.

        Raises ValueError for a missing condition, labels without classes, a wrong size, and scalars that are not one per image.
        """
        if x.shape[-1] % self.multiple or x.shape[-2] % self.multiple:
            raise ValueError(f"height and width must be multiples of {self.multiple}, got {tuple(x.shape)}")
        if self.use_additional_condition and condition is None:
            raise ValueError("a network built with use_additional_condition=True needs a condition (B,)")
        if not self.use_additional_condition and condition is not None:
            warnings.warn("a condition is ignored: the network was built with use_additional_condition=False", stacklevel=2)
            condition = None
        if labels is not None and not self.num_classes:
            raise ValueError("labels were given to a network without classes")
        temb = embed(self, per_image(timestep, x), None if condition is None else per_image(condition, x), labels)
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
