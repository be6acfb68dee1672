"""The challenge's U-Net: 58.8 million parameters, fixed for everyone."""

import contextlib
import warnings
from collections.abc import Sequence

import torch
from torch import nn

from src.module import Block, DownSample, ResBlock, Swish, TimeEmbedding, UpSample, group_norm, init_layer


class UNet(Block):
    """The denoising U-Net of DDPM (Ho et al., arXiv:2006.11239), with an optional second scalar input.

    The defaults are the challenge's network: 58,753,283 parameters, 59,934,979 with the additional condition, 89.4 GFLOP for
    one 64x64 image. Smaller widths and depths serve tests and laptops.

    Args:
        ch: channels of the first level.
        ch_mult: channels of each level as a multiple of ch; between levels height and width halve.
        attn: levels (from 0) whose blocks end in self-attention.
        num_res_blocks: residual blocks a level on the way down; one more on the way up.
        dropout: probability inside every residual block.
        use_additional_condition: take a second scalar per image beside the time.
    """

    def __init__(
        self,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        attn: Sequence[int] = (1,),
        num_res_blocks: int = 4,
        dropout: float = 0.1,
        use_additional_condition: bool = False,
    ):
        super().__init__()
        if not ch_mult:
            raise ValueError("ch_mult names no level")
        if any(not 0 <= level < len(ch_mult) for level in attn):
            raise ValueError(f"attn {list(attn)} names a level outside 0..{len(ch_mult) - 1}")
        self.use_additional_condition = use_additional_condition
        self.scale = 2 ** (len(ch_mult) - 1)
        time_size = 4 * ch

        self.time_embedding = TimeEmbedding(time_size)
        if use_additional_condition:
            self.condition_embedding = TimeEmbedding(time_size)
            self.condition_fusion = nn.Sequential(
                init_layer(nn.Linear(2 * time_size, time_size)), nn.SiLU(), init_layer(nn.Linear(time_size, time_size))
            )

        self.head = init_layer(nn.Conv2d(3, ch, 3, padding=1))
        channels = ch
        skips = [ch]
        self.downblocks = nn.ModuleList()
        for level, multiple in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.downblocks.append(ResBlock(channels, ch * multiple, time_size, dropout, attn=level in attn))
                channels = ch * multiple
                skips.append(channels)
            if level < len(ch_mult) - 1:
                self.downblocks.append(DownSample(channels))
                skips.append(channels)

        self.middleblocks = nn.ModuleList(
            [
                ResBlock(channels, channels, time_size, dropout, attn=True),
                ResBlock(channels, channels, time_size, dropout),
            ]
        )

        self.upblocks = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(ResBlock(channels + skips.pop(), ch * multiple, time_size, dropout, attn=level in attn))
                channels = ch * multiple
            if level > 0:
                self.upblocks.append(UpSample(channels))
        self.tail = nn.Sequential(group_norm(channels), Swish(), init_layer(nn.Conv2d(channels, 3, 3, padding=1), gain=1e-5))

    def embed(self, timestep: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        """The embedding of time and condition, (B, 4 ch), in the precision of the weights even under autocast."""
        if self.use_additional_condition and condition is None:
            raise ValueError("a network built with use_additional_condition=True needs a condition (B,)")
        if not self.use_additional_condition and condition is not None:
            warnings.warn("a condition is ignored: the network was built with use_additional_condition=False", stacklevel=3)
            condition = None
        device = timestep.device.type
        with torch.autocast(device, enabled=False) if device != "meta" else contextlib.nullcontext():
            temb = self.time_embedding(timestep)
            if condition is None:
                return temb
            return self.condition_fusion(torch.cat([temb, self.condition_embedding(condition)], dim=-1))

    def forward(
        self, x: torch.Tensor, timestep: torch.Tensor | float, condition: torch.Tensor | float | None = None
    ) -> torch.Tensor:
        """Predict an image-shaped quantity.

        Args:
            x: (B, 3, H, W), H and W multiples of 8 (of 2^(levels - 1)).
            timestep: (B,), or one for all images: a number, or a tensor of one. Any real scale; see TimeEmbedding.
            condition: the same, where the network was built with use_additional_condition; else ignored with a warning.

        Returns:
            (B, 3, H, W), contiguous.

        Raises:
            ValueError: a condition that is missing; a size the levels cannot halve; scalars that are not one per image.
        """
        if x.shape[-1] % self.scale or x.shape[-2] % self.scale:
            raise ValueError(f"height and width must be multiples of {self.scale}, got {tuple(x.shape)}")
        temb = self.embed(per_image(timestep, x), None if condition is None else per_image(condition, x))
        h = self.head(x)
        skips = [h]
        for block in self.downblocks:
            h = block(h, temb)
            skips.append(h)
        for block in self.middleblocks:
            h = block(h, temb)
        for block in self.upblocks:
            if isinstance(block, ResBlock):
                h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, temb)
        return self.tail(h).contiguous()


def per_image(scalar: torch.Tensor | float, x: torch.Tensor) -> torch.Tensor:
    """One scalar per image of x (B, ...): (B,) as it is, a number or a tensor of one repeated. ValueError for any other."""
    scalar = torch.as_tensor(scalar, device=x.device).reshape(-1)
    if len(scalar) not in (1, len(x)):
        raise ValueError(f"expected one time or condition, or one per image of {len(x)}, got {len(scalar)}")
    return scalar.expand(len(x))
