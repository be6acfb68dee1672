"""What every network is that gives features of images, and those beside FID's Inception."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.models import inception_v3

from src.common.cli import UserError
from src.common.efficientnet import OUTPUTS, PACKAGE_SHA256, EfficientNetLite0, load_efficientnet
from src.common.files import file_sha256, load_torch

EFFICIENTNET_SIZE = 128  # pixels the images are resized to; a third of the cost of the network's own 224
EFFICIENTNET = f"efficientnet-lite0 {EFFICIENTNET_SIZE}"
STARGAN, STARGAN_SIZE = "stargan", 256


class FeatureNetwork(nn.Module):
    """A frozen network that gives features.

    `columns`: their number. `modes`: the ways in which it takes images, by name. `source` says in words where the weights came
    from, `sha256` is the hash of the parameters or of their file; it and the mode name the features in the cache.
    """

    columns = 2048
    modes: tuple[str, ...]
    source, sha256 = "none", ""

    def features(self, pixels: torch.Tensor, mode: str) -> torch.Tensor:
        """Float pixels (B, 3, H, W) in 0..255 -> (B, columns)."""
        raise NotImplementedError


def resize(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Pixels (B, 3, H, W) in 0..255 resized to size x size by Pillow's bicubic filter in floating point, clipped, unrounded."""
    rows, columns = (_bicubic_matrix(length, size).to(pixels.device) for length in pixels.shape[2:])
    return (rows @ pixels @ columns.T).clamp(0, 255)


@lru_cache
def _bicubic_matrix(size: int, target: int) -> torch.Tensor:
    """Pillow's bicubic resize of a line of `size` pixels as a matrix (target, size): its answers to unit vectors."""
    units = Image.fromarray(np.eye(size, dtype=np.float32))
    return torch.from_numpy(np.array(units.resize((target, size), Image.Resampling.BICUBIC))).T


class SecondOpinion(FeatureNetwork):
    """EfficientNet-Lite0's last activations of images at 128x128, averaged over positions: (B, 320).

    It is a network that FID and most methods never saw: images that lower FID by pleasing Inception alone do not lower its
    Fréchet distance. It is no use for methods that train against it.
    """

    columns = OUTPUTS[max(OUTPUTS)]
    modes = (EFFICIENTNET,)
    source, sha256 = "efficientnet-lite0", PACKAGE_SHA256

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.network = network

    def features(self, pixels: torch.Tensor, mode: str = EFFICIENTNET) -> torch.Tensor:
        images = (resize(pixels, EFFICIENTNET_SIZE) / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        return self.network(images)[-1].mean(dim=(2, 3))


def load_second_opinion(device: str | torch.device = "cpu") -> SecondOpinion:
    """The network with its published weights. Raises UserError where their package is absent or damaged."""
    try:
        return SecondOpinion(load_efficientnet()).to(device)
    except ValueError as error:
        raise UserError(str(error)) from error


class StarGANInception(FeatureNetwork):
    """Pixels (B, 3, H, W) in 0..255, resized bilinearly to 256x256 and scaled to [-1, 1] -> pooled features (B, 2048).

    The network of StarGAN v2's evaluation (Choi et al., arXiv:1912.01865): torchvision's Inception v3, trained anew. A course
    on guidance measures animals by it (afhq_inception_v3.ckpt). Its FIDs do not compare with those of the network of 2015.
    """

    modes = (STARGAN,)

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
        x = F.interpolate(x, (STARGAN_SIZE, STARGAN_SIZE), mode="bilinear", align_corners=False) / 127.5 - 1
        return self.block4(self.block3(self.block2(self.block1(x)))).flatten(1)

    def features(self, pixels: torch.Tensor, mode: str = STARGAN) -> torch.Tensor:
        return self(pixels)


def load_stargan_inception(file: str | Path, device: torch.device | str = "cpu") -> StarGANInception:
    """The network with the weights of a file, such as afhq_inception_v3.ckpt: a state dict, or one under "state_dict".

    Raises UserError where the file is absent, damaged or of another network.
    """
    state = load_torch(file)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"--feature_network {file}: expected a state dict of StarGAN v2's Inception")
    state = {name.removeprefix("module."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.startswith(("fc.", "AuxLogits."))}
    network = StarGANInception()
    own = network.state_dict()
    absent = sorted(name for name in own.keys() - state if not name.endswith("num_batches_tracked"))
    unknown = sorted(state.keys() - own)
    other = sorted(name for name in own.keys() & state if own[name].shape != state[name].shape)
    if wrong := absent + unknown + other:
        raise UserError(
            f"--feature_network {file}: not StarGAN v2's Inception: {len(absent)} tensors absent, {len(unknown)} unknown, "
            f"{len(other)} of another shape, such as {wrong[0]}"
        )
    network.load_state_dict({**own, **state})
    network.source, network.sha256 = Path(file).name, file_sha256(file)
    return network.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)
