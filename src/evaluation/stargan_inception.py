"""The feature network of StarGAN v2's evaluation (Choi et al., arXiv:1912.01865): torchvision's Inception v3, trained anew.

A course on guidance measures animals by it (afhq_inception_v3.ckpt). It is not the network of 2015: their FIDs do not compare.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import inception_v3

from src.common.cli import UserError
from src.common.files import file_sha256, load_torch
from src.evaluation.feature_network import FeatureNetwork

MODE = "stargan"
SIZE = 256  # images are resized to this many pixels a side


class StarGANInception(FeatureNetwork):
    """Pixels (B, 3, H, W) in 0..255, resized bilinearly to 256x256 and scaled to [-1, 1] -> pooled features (B, 2048)."""

    modes = (MODE,)

    def __init__(self) -> None:
        super().__init__()
        net = inception_v3(weights=None, aux_logits=False, transform_input=False, init_weights=False)
        self.block1 = nn.Sequential(net.Conv2d_1a_3x3, net.Conv2d_2a_3x3, net.Conv2d_2b_3x3, nn.MaxPool2d(3, stride=2))
        self.block2 = nn.Sequential(net.Conv2d_3b_1x1, net.Conv2d_4a_3x3, nn.MaxPool2d(3, stride=2))
        self.block3 = nn.Sequential(
            *(net.Mixed_5b, net.Mixed_5c, net.Mixed_5d, net.Mixed_6a, net.Mixed_6b, net.Mixed_6c, net.Mixed_6d, net.Mixed_6e)
        )
        self.block4 = nn.Sequential(net.Mixed_7a, net.Mixed_7b, net.Mixed_7c, nn.AdaptiveAvgPool2d(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False) / 127.5 - 1
        return self.block4(self.block3(self.block2(self.block1(x)))).flatten(1)

    def features(self, pixels: torch.Tensor, mode: str = MODE) -> torch.Tensor:
        return self(pixels)


def load_stargan_inception(file: str | Path, device: torch.device | str = "cpu") -> StarGANInception:
    """The network with the weights of a file, such as afhq_inception_v3.ckpt: a state dict, or one under "state_dict".

    Raises UserError where the file is absent, damaged or of another network.
    """
    state = load_torch(file)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"--judge {file}: expected a state dict of StarGAN v2's Inception")
    state = {name.removeprefix("module."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.startswith(("fc.", "AuxLogits."))}
    network = StarGANInception()
    own = network.state_dict()
    absent = sorted(name for name in own.keys() - state if not name.endswith("num_batches_tracked"))
    unknown = sorted(state.keys() - own)
    other = sorted(name for name in own.keys() & state if own[name].shape != state[name].shape)
    if wrong := absent + unknown + other:
        raise UserError(
            f"--judge {file}: not StarGAN v2's Inception: {len(absent)} tensors absent, {len(unknown)} unknown, {len(other)} "
            f"of another shape, such as {wrong[0]}"
        )
    network.load_state_dict({**own, **state})
    network.source, network.sha256 = Path(file).name, file_sha256(file)
    return network.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)
