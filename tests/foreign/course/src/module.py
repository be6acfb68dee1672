"""A stand-in of the course's src/module.py, for its own network only: 32 groups, times as float tensors (B,)."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import init


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class DownSample(nn.Module):
    def __init__(self, in_ch):
        super().__init__()
        self.main = nn.Conv2d(in_ch, in_ch, 3, stride=2, padding=1)
        self.initialize()

    def initialize(self):
        init.xavier_uniform_(self.main.weight)
        init.zeros_(self.main.bias)

    def forward(self, x, temb):
        return self.main(x)


class UpSample(nn.Module):
    def __init__(self, in_ch):
        super().__init__()
        self.main = nn.Conv2d(in_ch, in_ch, 3, stride=1, padding=1)
        self.initialize()

    def initialize(self):
        init.xavier_uniform_(self.main.weight)
        init.zeros_(self.main.bias)

    def forward(self, x, temb):
        _, _, height, width = x.shape
        return self.main(F.interpolate(x, size=(2 * height, 2 * width), mode="nearest"))


class AttnBlock(nn.Module):
    def __init__(self, in_ch):
        super().__init__()
        self.group_norm = nn.GroupNorm(32, in_ch)
        self.proj_q, self.proj_k, self.proj_v, self.proj = (nn.Conv2d(in_ch, in_ch, 1) for _ in range(4))
        self.initialize()

    def initialize(self):
        for layer in (self.proj_q, self.proj_k, self.proj_v, self.proj):
            init.xavier_uniform_(layer.weight, gain=1e-5 if layer is self.proj else 1.0)
            init.zeros_(layer.bias)

    def forward(self, x):
        b, c, height, width = x.shape
        h = self.group_norm(x)
        q = self.proj_q(h).permute(0, 2, 3, 1).reshape(b, height * width, c)
        k = self.proj_k(h).reshape(b, c, height * width)
        w = F.softmax(torch.bmm(q, k) * c**-0.5, dim=-1)
        v = self.proj_v(h).permute(0, 2, 3, 1).reshape(b, height * width, c)
        h = torch.bmm(w, v).reshape(b, height, width, c).permute(0, 3, 1, 2)
        return x + self.proj(h)


class ResBlock(nn.Module):
    def __init__(self, in_ch, out_ch, tdim, dropout, attn=False):
        super().__init__()
        self.block1 = nn.Sequential(nn.GroupNorm(32, in_ch), Swish(), nn.Conv2d(in_ch, out_ch, 3, padding=1))
        self.temb_proj = nn.Sequential(Swish(), nn.Linear(tdim, out_ch))
        self.block2 = nn.Sequential(
            nn.GroupNorm(32, out_ch), Swish(), nn.Dropout(dropout), nn.Conv2d(out_ch, out_ch, 3, padding=1)
        )
        self.shortcut = nn.Conv2d(in_ch, out_ch, 1) if in_ch != out_ch else nn.Identity()
        self.attn = AttnBlock(out_ch) if attn else nn.Identity()
        self.initialize()

    def initialize(self):
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                init.xavier_uniform_(module.weight)
                init.zeros_(module.bias)
        init.xavier_uniform_(self.block2[-1].weight, gain=1e-5)

    def forward(self, x, temb):
        h = self.block1(x)
        h = h + self.temb_proj(temb)[:, :, None, None]
        h = self.block2(h)
        return self.attn(h + self.shortcut(x))


class TimeEmbedding(nn.Module):
    def __init__(self, hidden_size, frequency_embedding_size=256):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(frequency_embedding_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        self.frequencies = frequency_embedding_size
        self.initialize()

    def initialize(self):
        for layer in (self.mlp[0], self.mlp[2]):
            init.xavier_uniform_(layer.weight)
            init.zeros_(layer.bias)

    @staticmethod
    def timestep_embedding(t, dim, max_period=10000):
        if t.ndim != 1 or not t.is_floating_point():
            raise TypeError(f"times are float tensors (B,), got {t.dtype} {tuple(t.shape)}")
        half = dim // 2
        exponents = torch.arange(0, half, dtype=torch.float32, device=t.device) / half
        args = t[:, None].float() * torch.exp(-math.log(max_period) * exponents)[None]
        return torch.cat([torch.cos(args), torch.sin(args)], dim=-1)

    def forward(self, t):
        return self.mlp(self.timestep_embedding(t, self.frequencies))
