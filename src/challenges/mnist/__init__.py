"""Handwritten digits (MNIST), and clothes (Fashion-MNIST): 28x28 grey images, a network that trains on two CPU cores.

The course hands out a folder mnist/*.png of the 60,000 training images, takes 10,000 images 00001.png ... 10000.png and
measures them by pytorch-fid against the statistics of all training images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from src.challenges.mnist.data import load_digits
from src.challenges.shared.challenge import Mark, Published, register
from src.challenges.shared.images import PYTORCH_FID, ImageChallenge
from src.challenges.shared.unet import ClassUNet, init_layer
from src.common.options import Preset

CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
COURSE = "the course's full mark"


class GreyUNet(ClassUNet):
    """The U-Net of grey images (B, 1, 28, 28): levels of 28x28, 14x14 and 7x7, attention at 7x7. See docs/digits.md."""

    def __init__(
        self,
        ch: int = 32,
        ch_mult: Sequence[int] = (1, 2, 2),
        attn: Sequence[int] = (2,),
        num_res_blocks: int = 1,
        dropout: float = 0.0,
        use_additional_condition: bool = False,
        num_classes: int = 0,
    ):
        super().__init__(ch, ch_mult, attn, num_res_blocks, dropout, use_additional_condition, num_classes)
        self.head = init_layer(nn.Conv2d(1, ch, 3, padding=1))
        self.tail[-1] = init_layer(nn.Conv2d(self.tail[-1].in_channels, 1, 3, padding=1), gain=1e-5)


@dataclass(frozen=True, kw_only=True, eq=False)
class DigitsChallenge(ImageChallenge):
    """10,000 images, handed in as a folder and measured against the statistics of all training images.

    Args:
        contrast: samples are multiplied by it before they are cut to [-1, 1] and stored. Above 1, what is nearly black or white
            becomes so: four fifths of a digit's pixels are black, and FID sees faint grain there that eyes do not.
    """

    contrast: float = 1.0
    metrics: Mapping[str, str] = field(default_factory=lambda: PYTORCH_FID)

    graded = False
    hands_in_images = keeps_statistics = True
    batch_size, cpu_batch_size = 250, 64  # on a CPU larger batches leave its caches
    preview_samples = 16

    def to_array(self, samples: torch.Tensor) -> np.ndarray:
        return super().to_array(self.contrast * samples)

    def file_name(self, number: int) -> str:
        return f"{number + 1:05d}.png"

    def reference_dir(self) -> str:
        return ""

    def read_reference(self, root: str | Path, folder: str | Path) -> np.ndarray:
        """The images of a folder, or without one all training images: uint8 (M, C, H, W)."""
        return self.read(Path(folder)) if str(folder) else self.load("train", root)[0]

    def warnings(self, samples: np.ndarray, reference: np.ndarray | None) -> list[str]:
        if len(samples) == self.num_samples:
            return []
        return [f"{len(samples)} images; the course measures {self.num_samples}, and FID depends on their number"]


TRAINING: dict[str, Any] = {
    "batch_size": 64,
    "num_iterations": 40000,
    "lr": 1e-3,
    "lr_warmup": 200,
    "lr_decay": 0.5,
    "ema_half_lives": [0.05],
    "flip": False,
    "log_interval": 50,
    "save_interval": 1000,
}
PRESETS = {
    "small": Preset(
        "half of the network's width, a minute on two CPU cores", {"ch": 16, "num_iterations": 500, "save_interval": 250}
    ),
    "laptop": Preset("an hour on two CPU cores", {"num_iterations": 6900, "auto_resume": True}),
}
SIGMA_DATA = {"sigma_data": 0.6}  # the images' standard deviation on the scale of -1 to 1
KARRAS = ("edm", "consistency", "cmt", "ctm", "gdd", "add", "ld3")
COMMON: dict[str, Any] = {
    "shape": (1, 28, 28),
    "network": GreyUNet,
    "nfe": (1, 2, 4, 50),
    "num_samples": 10000,
    "training": TRAINING,
    "presets": PRESETS,
    "method_options": dict.fromkeys(KARRAS, SIGMA_DATA),
}

DIGITS = register(
    DigitsChallenge(
        name="mnist",
        about="handwritten digits at 28x28 and a U-Net for two CPU cores",
        load=partial(load_digits, name="mnist"),
        classes=tuple("0123456789"),
        default_root="./data/mnist",
        contrast=1.06,
        marks=(Mark("fid_pytorch", below=30, nfe=50, who=COURSE), Mark("fid_pytorch", below=3.2, nfe=50, who="best published")),
        published=(  # FID pytorch-fid, 10,000 images against the training images
            Published("a plain DDPM", "published", {50: 29.97}),
            Published("best published", "DDPM, cosine schedule, EMA, attention, DDIM", {50: 3.2}),
        ),
        **COMMON,
    )
)
FASHION = register(
    DigitsChallenge(
        name="fashion_mnist",
        about="clothes at 28x28, as mnist has digits",
        load=partial(load_digits, name="fashion_mnist"),
        classes=CLOTHES,
        default_root="./data/fashion_mnist",
        **COMMON,
    )
)
