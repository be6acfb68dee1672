"""The blocks of the U-Net. Their names and shapes are the challenge's: a checkpoint fits any network that has them."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def init_layer(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> nn.Conv2d | nn.Linear:
    """Xavier-uniform weights and a zero bias; a gain near zero makes a residual branch start as nothing."""
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups; in networks narrower than the challenge's fewer, of at least 4 channels each.

    A group of one channel would take out the time that is added to that channel before it.
    """
    return nn.GroupNorm(math.gcd(32, channels // 4, channels), channels)


class Swish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(x)


class TimeEmbedding(nn.Module):
    """A scalar per image (B,) -> (B, hidden_size): sinusoid (cos, then sin), Linear, SiLU, Linear.

    The sinusoid's lowest frequency is 1/max_period, so scalars of about 0 to 1000 are told apart best. It is computed in
    float32 or better, whatever the precision of the network.
    """

    def __init__(self, hidden_size: int, frequency_size: int = 256, max_period: float = 10000.0):
        super().__init__()
        self.frequency_size = frequency_size
        self.max_period = max_period
        self.mlp = nn.Sequential(
            init_layer(nn.Linear(frequency_size, hidden_size)), nn.SiLU(), init_layer(nn.Linear(hidden_size, hidden_size))
        )

    def sinusoid(self, t: torch.Tensor) -> torch.Tensor:
        t = t if t.dtype == torch.float64 else t.float()
        half = self.frequency_size // 2
        exponents = torch.arange(half, device=t.device, dtype=t.dtype) / half
        angles = t[:, None] * torch.exp(-math.log(self.max_period) * exponents)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.sinusoid(t).to(self.mlp[0].weight.dtype))


class DownSample(nn.Module):
    """Halve height and width by a strided convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.main = init_layer(nn.Conv2d(channels, channels, 3, stride=2, padding=1))

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        return self.main(x)


class UpSample(nn.Module):
    """Double height and width by nearest neighbours, then convolve."""

    def __init__(self, channels: int):
        super().__init__()
        self.main = init_layer(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        return self.main(F.interpolate(x, scale_factor=2, mode="nearest"))


class AttnBlock(nn.Module):
    """Single-head self-attention over the positions of a feature map, added to its input.

    Written as two matrix products and a softmax: every one of them has a forward-mode derivative, which the fused attention
    kernels lack and which methods with a Jacobian-vector product need.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.group_norm = group_norm(channels)
        self.proj_q = init_layer(nn.Conv2d(channels, channels, 1))
        self.proj_k = init_layer(nn.Conv2d(channels, channels, 1))
        self.proj_v = init_layer(nn.Conv2d(channels, channels, 1))
        self.proj = init_layer(nn.Conv2d(channels, channels, 1), gain=1e-5)

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

    def __init__(self, in_channels: int, out_channels: int, time_size: int, dropout: float, attn: bool = False):
        super().__init__()
        self.block1 = nn.Sequential(
            group_norm(in_channels), Swish(), init_layer(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        )
        self.temb_proj = nn.Sequential(Swish(), init_layer(nn.Linear(time_size, out_channels)))
        self.block2 = nn.Sequential(
            group_norm(out_channels),
            Swish(),
            nn.Dropout(dropout),
            init_layer(nn.Conv2d(out_channels, out_channels, 3, padding=1), gain=1e-5),
        )
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else init_layer(nn.Conv2d(in_channels, out_channels, 1))
        self.attn = AttnBlock(out_channels) if attn else nn.Identity()

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        h = self.block1(x) + self.temb_proj(temb)[:, :, None, None]
        h = self.block2(h)
        return self.attn(self.shortcut(x) + h)
