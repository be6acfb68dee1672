"""The Inception network of 2015 that FID is defined with (Heusel et al., arXiv:1706.08500).

Its pools differ from torchvision's, so the blocks are pytorch-fid's. `src.evaluation.weights` finds the weights.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
from torch import nn
from torchvision.models.inception import BasicConv2d, InceptionB, InceptionD

from src.evaluation.feature_networks import FeatureNetwork, resize

FEATURES = 2048
INPUT_SIZE = 299


class Inception(FeatureNetwork):
    """Images (B, 3, 299, 299) in [-1, 1] -> pooled features (B, 2048), not negative.

    Two published ways of bringing an image to this size are followed, and differ by points of FID: `clean`, the default of
    clean-fid (Parmar et al., arXiv:2104.11222), and `pytorch`, that of pytorch-fid.
    """

    modes = ("clean", "pytorch")

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            OrderedDict(
                Conv2d_1a_3x3=BasicConv2d(3, 32, kernel_size=3, stride=2),
                Conv2d_2a_3x3=BasicConv2d(32, 32, kernel_size=3),
                Conv2d_2b_3x3=BasicConv2d(32, 64, kernel_size=3, padding=1),
                maxpool1=nn.MaxPool2d(kernel_size=3, stride=2),
                Conv2d_3b_1x1=BasicConv2d(64, 80, kernel_size=1),
                Conv2d_4a_3x3=BasicConv2d(80, 192, kernel_size=3),
                maxpool2=nn.MaxPool2d(kernel_size=3, stride=2),
                Mixed_5b=FIDInceptionA(192, pool_features=32),
                Mixed_5c=FIDInceptionA(256, pool_features=64),
                Mixed_5d=FIDInceptionA(288, pool_features=64),
                Mixed_6a=InceptionB(288),
                Mixed_6b=FIDInceptionC(768, channels_7x7=128),
                Mixed_6c=FIDInceptionC(768, channels_7x7=160),
                Mixed_6d=FIDInceptionC(768, channels_7x7=160),
                Mixed_6e=FIDInceptionC(768, channels_7x7=192),
                Mixed_7a=InceptionD(768),
                Mixed_7b=FIDInceptionE_1(1280),
                Mixed_7c=FIDInceptionE_2(2048),
                avgpool=nn.AdaptiveAvgPool2d(1),
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).flatten(1)

    def features(self, pixels: torch.Tensor, mode: str) -> torch.Tensor:
        if mode == "clean":  # Pillow's bicubic filter, then about -1..1
            images = (resize(pixels, INPUT_SIZE) - 128) / 128
        else:  # torch's bilinear filter, then -1..1
            images = 2 * F.interpolate(pixels / 255, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False) - 1
        return self(images.contiguous(memory_format=torch.channels_last))

    def fuse(self) -> "Inception":
        """Fold every batch norm into its convolution, for inference: same values up to rounding, fewer passes over memory."""
        for module in self.modules():
            if isinstance(module, BasicConv2d):
                module.conv = nn.utils.fusion.fuse_conv_bn_eval(module.conv, module.bn)
                module.bn = nn.Identity()
        return self.to(memory_format=torch.channels_last)
