"""The feature network of StarGAN v2's evaluation (Choi et al., arXiv:1912.01865): torchvision's Inception v3, trained anew.

A course on guidance judges animals by it (afhq_inception_v3.ckpt). It is not the network of 2015: their FIDs do not compare.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import inception_v3

from src.common.cli import UserError
from src.common.files import file_sha256, load_torch
from src.common.processes import Processes
from src.evaluation.features import cached_by_content, run_network
from src.evaluation.inception import FEATURES

SIZE = 256  # images are resized to this many pixels a side


class StarGANInception(nn.Module):
    """Pixels (B, 3, H, W) in 0..255 -> pooled features (B, 2048).

    Images are resized bilinearly to 256x256 and scaled to [-1, 1]. `source` says where the weights came from, `sha256` is the
    hash of that file.
    """

    def __init__(self) -> None:
        super().__init__()
        net = inception_v3(weights=None, aux_logits=False, transform_input=False, init_weights=False)
        self.block1 = nn.Sequential(net.Conv2d_1a_3x3, net.Conv2d_2a_3x3, net.Conv2d_2b_3x3, nn.MaxPool2d(3, stride=2))
        self.block2 = nn.Sequential(net.Conv2d_3b_1x1, net.Conv2d_4a_3x3, nn.MaxPool2d(3, stride=2))
        self.block3 = nn.Sequential(
            *(net.Mixed_5b, net.Mixed_5c, net.Mixed_5d, net.Mixed_6a, net.Mixed_6b, net.Mixed_6c, net.Mixed_6d, net.Mixed_6e)
        )
        self.block4 = nn.Sequential(net.Mixed_7a, net.Mixed_7b, net.Mixed_7c, nn.AdaptiveAvgPool2d(1))
        self.source, self.sha256 = "none", ""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False) / 127.5 - 1
        return self.block4(self.block3(self.block2(self.block1(x)))).flatten(1)


def load_stargan_inception(file: str | Path, device: torch.device | str = "cpu") -> StarGANInception:
    """The network with the weights of a file, such as afhq_inception_v3.ckpt: a state dict, or one under "state_dict".

    Raises UserError where the file is absent, damaged or of another network.
    """
    state = load_torch(file)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    network = StarGANInception()
    own = network.state_dict()
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"--judge {file}: expected a state dict of StarGAN v2's Inception")
    state = {name.removeprefix("module."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.startswith(("fc.", "AuxLogits."))}
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    absent = sorted(set(own) - set(state) - counters)
    strange = sorted(set(state) - set(own))
    other = sorted(name for name in set(own) & set(state) if own[name].shape != state[name].shape)
    if absent or strange or other:
        raise UserError(
            f"--judge {file}: not StarGAN v2's Inception: {len(absent)} tensors absent, {len(strange)} unknown, {len(other)} "
            f"of another shape, such as {(absent + strange + other)[0]}"
        )
    network.load_state_dict({**own, **state})
    network.source, network.sha256 = Path(file).name, file_sha256(file)
    return network.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)


def stargan_features(
    images: np.ndarray,
    judge: StarGANInception,
    batch_size: int = 64,
    description: str | None = None,
    processes: Processes | None = None,
) -> np.ndarray:
    """The judge's features of images, uint8 (N, 3, H, W) -> float32 (N, 2048), kept in the project's cache."""
    device = next(judge.parameters()).device

    def extract(mine: np.ndarray, parts: Path) -> np.ndarray:
        return run_network(mine, judge, FEATURES, device, batch_size, description, parts)

    return cached_by_content(images, f"stargan {judge.sha256}", extract, processes)
