"""The blocks of the U-Net. Their names and shapes are the challenge's: a checkpoint fits any network that has them."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def init_layer(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> nn.Conv2d | nn.Linear:
    """Xavier-uniform weights and a zero bias; a gain near zero makes a residual branch start as nothing."""
    layer.gain = gain
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """A part of the network that can be drawn anew."""

    def initialize(self) -> None:
        """Draw the weights of all layers of this block as in a fresh network."""
        for layer in self.modules():
            if hasattr(layer, "gain"):
                init_layer(layer, layer.gain)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups; in networks narrower than the challenge's fewer, of at least 4 channels each.

    A group of one channel would take out the time that is added to that channel before it.
    """
    return nn.GroupNorm(math.gcd(32, channels // 4, channels), channels)


class Swish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(x)


class TimeEmbedding(Block):
    """Scalars (B,) -> (B, hidden_size), one per image: sinusoid (cos, then sin), Linear, SiLU, Linear. A 0-d scalar is one row.

    The sinusoid is computed in float32 or better, whatever the precision of the network.
    """

    def __init__(self, hidden_size: int, frequency_embedding_size: int = 256):
        super().__init__()
        self.frequency_embedding_size = frequency_embedding_size
        self.mlp = nn.Sequential(
            init_layer(nn.Linear(frequency_embedding_size, hidden_size)),
            nn.SiLU(),
            init_layer(nn.Linear(hidden_size, hidden_size)),
        )

    @staticmethod
    def timestep_embedding(t: torch.Tensor, dim: int, max_period: float = 10000.0) -> torch.Tensor:
        """The sinusoid (B, dim) of t (B,): cosines, then sines, of frequencies from 1 down to nearly 1 / max_period.

        Scalars of about 0 to 1000 are told apart best.
        """
        t = t if t.dtype == torch.float64 else t.float()
        half = dim // 2
        exponents = torch.arange(half, device=t.device, dtype=t.dtype) / half
        angles = t[:, None] * torch.exp(-math.log(max_period) * exponents)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        sinusoid = self.timestep_embedding(t.reshape(-1), self.frequency_embedding_size)
        return self.mlp(sinusoid.to(self.mlp[0].weight.dtype))


class DownSample(Block):
    """Halve height and width by a strided convolution."""

    def __init__(self, in_ch: int):
        super().__init__()
        self.main = init_layer(nn.Conv2d(in_ch, in_ch, 3, stride=2, padding=1))

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        return self.main(x)


class UpSample(Block):
    """Double height and width by nearest neighbours, then convolve."""

    def __init__(self, in_ch: int):
        super().__init__()
        self.main = init_layer(nn.Conv2d(in_ch, in_ch, 3, padding=1))

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        return self.main(F.interpolate(x, scale_factor=2, mode="nearest"))


class AttnBlock(Block):
    """Single-head self-attention over the positions of a feature map, added to its input.

    Written as two matrix products and a softmax: every one of them has a forward-mode derivative, which the fused attention
    kernels lack and which methods with a Jacobian-vector product need.
    """

    def __init__(self, in_ch: int):
        super().__init__()
        self.group_norm = group_norm(in_ch)
        self.proj_q = init_layer(nn.Conv2d(in_ch, in_ch, 1))
        self.proj_k = init_layer(nn.Conv2d(in_ch, in_ch, 1))
        self.proj_v = init_layer(nn.Conv2d(in_ch, in_ch, 1))
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


class ResBlock(Block):
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
        same = in_ch == out_ch
        self.shortcut = nn.Identity() if same else init_layer(nn.Conv2d(in_ch, out_ch, 1))
        self.attn = AttnBlock(out_ch) if attn else nn.Identity()

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        h = self.block1(x) + self.temb_proj(temb)[:, :, None, None]
        h = self.block2(h)
        return self.attn(self.shortcut(x) + h)
