"""A second opinion: the Fréchet distance on EfficientNet-Lite0, a network that FID and most methods never saw.

It was trained on ImageNet too, but by another team, on another architecture. Images that lower FID by pleasing Inception
alone do not lower this. Methods that train against EfficientNet-Lite0 themselves are no case for it.
"""

from pathlib import Path

import numpy as np
import torch

from src.common.cli import UserError
from src.common.efficientnet import OUTPUTS, PACKAGE_SHA256, EfficientNetLite0, load_efficientnet
from src.evaluation.features import cached_by_content, resize, run_network

SIZE = 128  # pixels the images are resized to; a third of the cost of the network's own 224
FEATURES = OUTPUTS[max(OUTPUTS)]


def load(device: str | torch.device = "cpu") -> EfficientNetLite0:
    """The network with its published weights. Raises UserError where their package is absent or damaged."""
    try:
        return load_efficientnet().to(device)
    except ValueError as error:
        raise UserError(str(error)) from error


def extract(images: np.ndarray, network: EfficientNetLite0, batch_size: int = 64, parts: Path | None = None) -> np.ndarray:
    """The last block's activations, averaged over positions: uint8 (N, 3, H, W) -> float32 (N, 320).

    Images are resized to 128x128 by Pillow's bicubic filter. parts: as of run_network.
    """

    def features(batch: torch.Tensor) -> torch.Tensor:
        inputs = (resize(batch, SIZE) / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        return network(inputs)[-1].mean(dim=(2, 3))

    return run_network(images, features, FEATURES, next(network.buffers()).device, batch_size, parts=parts)


def cached(images: np.ndarray, network: EfficientNetLite0, batch_size: int = 64) -> np.ndarray:
    """As extract, but kept in the project's cache."""
    words = f"efficientnet-lite0 {SIZE} {PACKAGE_SHA256}"
    return cached_by_content(images, words, lambda mine, parts: extract(mine, network, batch_size, parts))
