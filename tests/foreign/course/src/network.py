"""A stand-in of the course's src/network.py. What it gives is not contiguous, and it checks next to nothing."""

import torch
import torch.nn as nn
from torch.nn import init

from .module import DownSample, ResBlock, Swish, TimeEmbedding, UpSample


class UNet(nn.Module):
    def __init__(self, ch=128, ch_mult=(1, 2, 2, 2), attn=(1,), num_res_blocks=4, dropout=0.1, use_additional_condition=False):
        super().__init__()
        tdim = 4 * ch
        self.time_embedding = TimeEmbedding(tdim)
        self.conditional = use_additional_condition
        if use_additional_condition:
            self.condition_embedding = TimeEmbedding(tdim)
            self.condition_fusion = nn.Sequential(nn.Linear(2 * tdim, tdim), nn.SiLU(), nn.Linear(tdim, tdim))

        self.head = nn.Conv2d(3, ch, 3, padding=1)
        self.downblocks = nn.ModuleList()
        widths, now = [ch], ch
        for i, mult in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.downblocks.append(ResBlock(now, ch * mult, tdim, dropout, attn=i in attn))
                now = ch * mult
                widths.append(now)
            if i != len(ch_mult) - 1:
                self.downblocks.append(DownSample(now))
                widths.append(now)
        self.middleblocks = nn.ModuleList([ResBlock(now, now, tdim, dropout, attn=True), ResBlock(now, now, tdim, dropout)])
        self.upblocks = nn.ModuleList()
        for i, mult in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(ResBlock(widths.pop() + now, ch * mult, tdim, dropout, attn=i in attn))
                now = ch * mult
            if i != 0:
                self.upblocks.append(UpSample(now))
        self.tail = nn.Sequential(nn.GroupNorm(32, now), Swish(), nn.Conv2d(now, 3, 3, padding=1))
        self.initialize()

    def initialize(self):
        for layer in [self.head, self.tail[-1], *(self.condition_fusion[::2] if self.conditional else [])]:
            init.xavier_uniform_(layer.weight, gain=1e-5 if layer is self.tail[-1] else 1.0)
            init.zeros_(layer.bias)

    def forward(self, x, timestep, condition=None):
        temb = self.time_embedding(timestep)
        if self.conditional:
            if condition is None:
                raise ValueError("condition is missing")
            temb = self.condition_fusion(torch.cat([temb, self.condition_embedding(condition)], dim=-1))
        h = self.head(x)
        hs = [h]
        for layer in self.downblocks:
            h = layer(h, temb)
            hs.append(h)
        for layer in self.middleblocks:
            h = layer(h, temb)
        for layer in self.upblocks:
            if isinstance(layer, ResBlock):
                h = torch.cat([h, hs.pop()], dim=1)
            h = layer(h, temb)
        return self.tail(h).transpose(2, 3).contiguous().transpose(2, 3)
