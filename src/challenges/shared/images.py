"""Challenges whose samples are images: written as RGB PNG files, measured by FID, submitted and graded."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from src.challenges.shared.challenge import Challenge
from src.common.cli import UserError
from src.common.files import write_whole
from src.common.images import contact_sheet, to_uint8
from src.common.processes import Processes

# What measuring needs is imported by the functions that measure: a model is built and sampled without.
if TYPE_CHECKING:
    from src.evaluation.inception import Inception
    from src.evaluation.statistics import Statistics

FID_METRICS = {"fid_clean": "FID clean-fid", "fid_pytorch": "FID pytorch-fid"}  # fid_ and a mode of src.evaluation.features
PYTORCH_FID = {"fid_pytorch": FID_METRICS["fid_pytorch"]}


def fid_mode(metric: str) -> str:
    """clean, pytorch: how images are resized for a metric of FID_METRICS."""
    return metric.removeprefix("fid_")


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Images (N, 3, H, W) as they are; grey ones (N, 1, H, W) in three equal channels."""
    return images if images.shape[1] == 3 else np.repeat(images, 3, axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageChallenge(Challenge):
    """A challenge of images (3, H, W), or grey ones (1, H, W). Models see them in [-1, 1]; they are stored as RGB, uint8."""

    metrics: Mapping[str, str] = field(default_factory=lambda: FID_METRICS)

    graded = True
    file_digits = 4  # of the number in a file's name
    keeps_statistics = False  # whether the reference's statistics are cached, and not its features: of a large one

    def to_array(self, samples: torch.Tensor) -> np.ndarray:
        """Images (B, C, H, W) in [-1, 1] as uint8 (B, 3, H, W): clamped, scaled, rounded."""
        return as_rgb(to_uint8(samples).cpu().numpy())

    def file_name(self, number: int) -> str:
        """The name of image `number` (from 0) in the folder that is handed in."""
        return f"{number:0{self.file_digits}d}.png"

    def write(self, samples: torch.Tensor, folder: Path, first: int = 0) -> None:
        self.write_pngs(self.to_array(samples), folder, first)

    def write_pngs(self, images: np.ndarray, folder: Path, first: int = 0) -> None:
        """Write images, uint8 (N, 3, H, W), under the names of the numbers first, first + 1 ..."""
        for number, pixels in enumerate(images, start=first):
            Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / self.file_name(number))

    def read(self, folder: Path) -> np.ndarray:
        from src.evaluation.features import read_images

        return read_images(folder)

    @property
    def num_handed_in(self) -> int:
        """How many images are handed in, where images are."""
        return self.num_samples

    def names_handed_in(self, count: int) -> list[str]:
        """Their names, in order."""
        return [self.file_name(number) for number in range(count)]

    def check(self, folder: Path, count: int) -> None:
        """Raise UserError unless a folder holds `count` images of this challenge's names and size in RGB, and nothing else."""
        _, height, width = self.shape
        names = sorted(self.names_handed_in(count))
        found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        for name, expected in itertools.zip_longest(found, names):
            if name != expected:
                absent = name is None or (expected and expected < name)
                what = f"{expected} is absent" if absent else f"{name} does not belong there"
                raise UserError(
                    f"{folder}: {what}; expected {count} images {names[0]} to {names[-1]}, found {len(found)} files"
                )
        for name in names:
            try:
                image = Image.open(folder / name)
            except (UnidentifiedImageError, OSError) as error:
                raise UserError(f"{folder / name}: not a readable image ({error})") from error
            with image:
                if image.mode != "RGB" or image.size != (width, height):
                    size = f"{image.width}x{image.height} in mode {image.mode}"
                    raise UserError(f"{folder / name} is {size}, expected {width}x{height} in mode RGB")

    def picture(self, rows: Sequence[np.ndarray], captions: Sequence[str]) -> Image.Image:
        return contact_sheet(rows, captions)

    def reference_dir(self) -> str:
        _, height, width = self.shape
        return f"./data/{self.name}_{width}x{height}/val"

    def read_reference(self, root: str | Path, folder: str | Path) -> np.ndarray:
        """The images of a folder, uint8 (M, 3, H, W); the folder is made from the validation split where it is absent.

        Prints a warning where the challenge's own folder was made from other data than those at root.
        """
        from src.evaluation.reference import check_origin

        folder = Path(folder)
        if not folder.exists():
            self.write_reference(root, folder)
            return self.read(folder)
        images = self.read(folder)
        if folder == Path(self.reference_dir()):
            load = lambda root: as_rgb(self.load("val", root)[0])  # noqa: E731
            if remark := check_origin(folder, images, str(root), self.default_root, load):
                print(remark)
        return images

    def write_reference(self, root: str | Path, folder: str | Path, count: int | None = None) -> None:
        """Write the validation images, or the first `count`, as sampling.py names its images, all or none of them.

        What they were made from is noted beside the folder.
        """
        from src.evaluation.reference import write_origin

        images = as_rgb(self.load("val", root)[0][:count])
        print(f"writing {len(images)} validation images to {folder}")
        with write_whole(folder, folder=True) as partial:
            partial.mkdir()
            self.write_pngs(images, partial)
        write_origin(folder, root, images)

    def load_feature_network(self, device: torch.device, file: str | None = None) -> "Inception":
        """The Inception network of 2015, its weights from a file, or found or downloaded. Raises UserError without weights."""
        from src.evaluation.weights import load_inception

        return load_inception(file, device)

    def measure(
        self,
        samples: np.ndarray,
        reference: "np.ndarray | Statistics",
        feature_network: "Inception",
        *,
        metrics: Sequence[str] | None = None,
        batch_size: int = 64,
        processes: Processes | None = None,
        verbose: bool = False,
    ) -> dict[str, float]:
        """FID of uint8 images (N, C, H, W), by name, against (M, C, H, W), or against statistics, which are of one mode."""
        from src.evaluation.features import cached_features, resumable_features
        from src.evaluation.fid import distance_from_statistics, frechet_distance
        from src.evaluation.statistics import Statistics, cached_statistics

        processes, scores = processes or Processes(), {}
        mine = as_rgb(samples)[processes.share(len(samples))]
        cached = cached_statistics if self.keeps_statistics else cached_features
        for metric in dict.fromkeys(metrics or self.metrics):
            mode, real = fid_mode(metric), reference
            title = f"images, {mode}" if verbose and processes.is_first else None
            if not isinstance(real, Statistics):
                real = cached(as_rgb(real), feature_network, mode, batch_size, title and f"reference {title}", processes)
            features = resumable_features(mine, feature_network, mode, batch_size, title and f"generated {title}")
            features = np.concatenate(processes.gather(features))
            if isinstance(real, Statistics):
                scores[metric] = distance_from_statistics(features, real.mu, real.sigma)
            else:
                scores[metric] = frechet_distance(features, real)
        return scores
