"""Animals by class, with guidance: a course's task on the cats, dogs and wild animals of AFHQ (Choi et al., arXiv:1912.01865).

A DDPM that is told the class makes 500 images without guidance and 500 with a scale of 7.5; each set is measured by FID against
the validation images, and 32 of each are handed in with the code. docs/guidance.md says what guidance is.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from src.challenges.afhq.data import CLASSES, DEFAULT_ROOT, SIZE, load_animals
from src.challenges.shared.challenge import Mark, register
from src.challenges.shared.images import PYTORCH_FID, ImageChallenge, as_rgb
from src.challenges.shared.unet import ClassUNet
from src.common.cli import UserError
from src.common.images import contact_sheet, read_picture
from src.common.processes import Processes

# What measuring needs is imported by the functions that measure: a model is built and sampled without.
if TYPE_CHECKING:
    from src.evaluation.inception import Inception
    from src.evaluation.stargan_inception import StarGANInception

SCALES = (0.0, 7.5)
HANDED_IN, ON_SHEET = 32, 8  # images of each scale
OWN_METRIC = "fid_stargan"
METRICS = {**PYTORCH_FID, OWN_METRIC: "FID of StarGAN v2's Inception"}


@dataclass(frozen=True, kw_only=True, eq=False)
class AnimalsChallenge(ImageChallenge):
    """500 images for each guidance scale, measured against the validation images; 32 of each are handed in."""

    metrics: Mapping[str, str] = field(default_factory=lambda: METRICS)

    graded = False
    hands_in_images = hands_in_code = has_own_feature_network = True
    preview_samples = 9

    @property
    def num_handed_in(self) -> int:
        return HANDED_IN * len(self.guidance_scales)

    def names_handed_in(self, count: int) -> list[str]:
        each = count // len(self.guidance_scales)
        return [f"{scale:.1f}_{number:02d}.png" for scale in self.guidance_scales for number in range(each)]

    def hand_in(self, folders: Mapping[float, Path]) -> dict[str, Path | bytes]:
        """What is handed in of folders of samples by scale: name in the zip -> file or bytes.

        It is the first 32 images of each, in turn of all classes, and a sheet with 8 of them. Raises UserError where one is
        missing, or the sheet would show fewer than two of a class.
        """
        from src.evaluation.by_class import read_labelled

        chosen = {}
        for scale, folder in folders.items():
            files = [folder / self.file_name(number) for number in range(HANDED_IN)]
            if absent := [file.name for file in files if not file.is_file()]:
                raise UserError(f"{folder}: {HANDED_IN} images of each scale are handed in; {absent[0]} is absent")
            labels = read_labelled(folder, CLASSES)[1][:ON_SHEET].tolist()
            if few := next((name for label, name in enumerate(CLASSES, start=1) if labels.count(label) < 2), None):
                raise UserError(f"{folder}: the first {ON_SHEET} images need two of every class; of {few} there are fewer")
            chosen[scale] = files
        names = [f"images/{name}" for name in self.names_handed_in(self.num_handed_in)]
        zipped = dict(zip(names, (file for files in chosen.values() for file in files), strict=True))
        read = lambda file: np.asarray(read_picture(file, str(file))).transpose(2, 0, 1)  # noqa: E731
        rows, sheet = [np.stack([read(file) for file in files[:ON_SHEET]]) for files in chosen.values()], io.BytesIO()
        contact_sheet(rows, [f"scale {scale:g}" for scale in chosen]).save(sheet, format="png")
        return {**zipped, "sheet.png": sheet.getvalue()}

    def load_own_feature_network(self, device: torch.device, file: str) -> "StarGANInception":
        """The course's feature network. Raises UserError where the file is absent or of another network."""
        from src.evaluation.stargan_inception import load_stargan_inception

        return load_stargan_inception(file, device)

    def measure(
        self,
        samples: np.ndarray,
        reference: np.ndarray,
        feature_network: "Inception | StarGANInception",
        *,
        metrics: Sequence[str] | None = None,
        batch_size: int = 64,
        processes: Processes | None = None,
        verbose: bool = False,
    ) -> dict[str, float]:
        """FID by the network that is given: "fid_stargan" by the course's, "fid_pytorch" by the Inception of 2015."""
        from src.evaluation.fid import frechet_distance
        from src.evaluation.stargan_inception import StarGANInception, stargan_features

        if not isinstance(feature_network, StarGANInception):
            settings: dict[str, Any] = {"batch_size": batch_size, "processes": processes, "verbose": verbose}
            return super().measure(samples, reference, feature_network, metrics=list(PYTORCH_FID), **settings)
        processes = processes or Processes()
        mine = as_rgb(samples)[processes.share(len(samples))]
        title = "images, StarGAN v2's Inception" if verbose and processes.is_first else None
        real = stargan_features(as_rgb(reference), feature_network, batch_size, title and f"reference {title}", processes)
        features = stargan_features(mine, feature_network, batch_size, title and f"generated {title}")
        return {OWN_METRIC: frechet_distance(np.concatenate(processes.gather(features)), real)}


AFHQ = register(
    AnimalsChallenge(
        name="afhq",
        about="cats, dogs and wild animals at 64x64, by class and with guidance",
        shape=(3, SIZE, SIZE),
        load=load_animals,
        default_root=DEFAULT_ROOT,
        classes=CLASSES,
        class_conditional=True,
        max_per_class=3000,
        guidance_scales=SCALES,
        network=ClassUNet,
        nfe=(50,),
        num_samples=500,
        training={"batch_size": 16, "lr": 2e-4, "lr_warmup": 200, "flip": False, "seed": 63},
        method_options={"ddpm": {"prediction": "epsilon", "schedule": "linear"}},
        marks=(
            Mark(OWN_METRIC, below=30, nfe=0, who="the course's full mark, at either scale"),
            Mark(OWN_METRIC, below=50, nfe=0, who="half of it"),
        ),
    )
)
