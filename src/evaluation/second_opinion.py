"""A second opinion: the Fréchet distance on EfficientNet-Lite0, a network that FID and most methods never saw.

Images that lower FID by pleasing Inception alone do not lower this. It is no use for methods that train against the network.
"""

import torch

from src.common.cli import UserError
from src.common.efficientnet import OUTPUTS, PACKAGE_SHA256, EfficientNetLite0, load_efficientnet
from src.evaluation.feature_network import FeatureNetwork, resize

SIZE = 128  # pixels the images are resized to; a third of the cost of the network's own 224
MODE = f"efficientnet-lite0 {SIZE}"


class SecondOpinion(FeatureNetwork):
    """EfficientNet-Lite0's last activations of images at 128x128, averaged over positions: (B, 320)."""

    columns = OUTPUTS[max(OUTPUTS)]
    modes = (MODE,)
    source, sha256 = "efficientnet-lite0", PACKAGE_SHA256

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.network = network

    def features(self, pixels: torch.Tensor, mode: str = MODE) -> torch.Tensor:
        images = (resize(pixels, SIZE) / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        return self.network(images)[-1].mean(dim=(2, 3))


def load_second_opinion(device: str | torch.device = "cpu") -> SecondOpinion:
    """The network with its published weights. Raises UserError where their package is absent or damaged."""
    try:
        return SecondOpinion(load_efficientnet()).to(device)
    except ValueError as error:
        raise UserError(str(error)) from error
