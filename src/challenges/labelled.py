"""Your own images: folders of classes, or a zip file in EDM's format, square and of one size from 16x16 to 128x128.

With --class_conditional models learn the classes. FID is pytorch-fid's, the convention nearest to EDM's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn

from src.challenges.shared.challenge import register
from src.challenges.shared.images import PYTORCH_FID, ImageChallenge
from src.challenges.shared.unet import ClassUNet
from src.datasets import labelled


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledChallenge(ImageChallenge):
    """Images (3, S, S) of any data, measured against their validation images, or where there are none against all of them."""

    metrics: Mapping[str, str] = field(default_factory=lambda: PYTORCH_FID)

    graded = False
    batch_size, file_digits = 250, 6

    def check_network(self, network: nn.Module) -> None:
        """Raise ValueError where a level of the U-Net would have half a pixel."""
        size, multiple = self.shape[-1] if self.shape else 0, network.multiple
        if size % multiple:
            levels = (size & -size).bit_length()  # one more than the times that size can be halved
            flags = f"--ch_mult {' '.join('1222222'[:levels])} --attn {' '.join('12'[: levels - 1])}".strip()
            raise ValueError(
                f"images of {size}x{size} cannot be halved {multiple.bit_length() - 1} times, as ch_mult has it: give it "
                f"{levels} level{'s' if levels > 1 else ''} at most, such as {flags}"
            )

    def class_names(self, root: str | Path) -> tuple[str, ...]:
        return labelled.class_names(root)

    def reference_dir(self) -> str:
        return ""

    def read_reference(self, root: str | Path, folder: str | Path) -> np.ndarray:
        """The images of a folder; without one the validation images at root, or where it has none all: uint8 (M, 3, H, W).

        Which of them it was is printed.
        """
        if str(folder):
            return super().read_reference(root, folder)
        split = "val" if labelled.has_validation(root) else "train"
        images = self.load(split, root)[0]
        print(f"reference: {len(images):,} {'validation' if split == 'val' else 'training'} images of {root}")
        return images

    def warnings(self, samples: np.ndarray, reference: np.ndarray | None) -> list[str]:
        if reference is None and len(samples) != self.num_samples:
            return [f"{len(samples)} images; published figures are of {self.num_samples}, and FID depends on their number"]
        return super().warnings(samples, reference)


LABELLED = register(
    LabelledChallenge(
        name="labelled",
        about="your own images in class folders, or a zip file in EDM's format, at their own resolution",
        shape=(),
        load=labelled.load_labelled,
        default_root="./data/labelled",
        network=ClassUNet,
        network_defaults={"ch_mult": (1, 2, 2, 2), "attn": (1, 2), "num_res_blocks": 2},  # 16x16 is a level of 32x32 and 64x64
        nfe=(1, 2, 4),
        num_samples=50000,
        training={"batch_size": 128, "lr": 2e-4, "lr_warmup": 1000},
    )
)
