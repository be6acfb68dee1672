"""What a run of score distillation leaves, by name: `save_dir/LOSS/PROMPT_WITH_UNDERSCORES.png`, as the course has it.

outputs/sds/a_cat.png            the last image; of several particles a_cat_0.png, a_cat_1.png ...
outputs/sds/run_config.json      the settings of the last run
outputs/sds/eval.json            scores of all images, by python -m src.score_distillation.evaluate
outputs/sds/a_cat/               of the run: run_config.json, log.jsonl, step_00025.png ... and what it is continued from
outputs/comparison.png           all losses side by side
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from src.common.cli import UserError
from src.common.files import append_json_line, load_json, save_json, write_whole
from src.common.images import contact_sheet, read_picture, tensor_to_pil_image
from src.runs.folder import LOG, RESUME

RUN_CONFIG, EVAL, COMPARISON = "run_config.json", "eval.json", "comparison.png"
STEM_BYTES = 200  # of a file's name that a prompt makes, so that with an ending it is one that a disk takes
SHOWN = 128  # pixels of the longer side of an image on a sheet, at most


def file_stem(prompt: str) -> str:
    """A prompt as the name of a file: spaces, and what a file's name cannot hold, become underscores."""
    stem = re.sub(r'[\s/\\:*?"<>|]', "_", prompt.strip()).lstrip(".")
    return stem.encode()[:STEM_BYTES].decode(errors="ignore")


def image_names(prompt: str, particles: int) -> list[str]:
    """The file names of the images of a prompt."""
    stem = file_stem(prompt)
    return [f"{stem}.png"] if particles == 1 else [f"{stem}_{number}.png" for number in range(particles)]


class RunFolder:
    """The files of one run in `save_dir/LOSS`: those of its prompt.

    Raises UserError where the prompt has no letters that name a file.
    """

    def __init__(self, save_dir: Path, loss_type: str, prompt: str, particles: int):
        if not file_stem(prompt):
            raise UserError(f"the prompt {prompt!r} is empty: say what the image is to show")
        self.folder = save_dir / loss_type
        self.work = self.folder / file_stem(prompt)
        self.images = [self.folder / name for name in image_names(prompt, particles)]

    @property
    def resume(self) -> Path:
        return self.work / RESUME

    def begin(self, settings: dict[str, Any]) -> bool:
        """Write the settings down; False where a run of the same settings has left its images already.

        What a run of other settings has left in the run's own folder is removed: it is begun anew.
        """
        own = self.work / RUN_CONFIG
        same = own.is_file() and load_json(own) == settings
        if same and not self.resume.is_file() and all(file.is_file() for file in self.images):
            return False
        if not same or not self.resume.is_file():
            for file in (self.resume, self.work / LOG, *self.work.glob("step_*.png")):
                file.unlink(missing_ok=True)
        for file in (own, self.folder / RUN_CONFIG):
            save_json(settings, file)
        return True

    def report(self, step: int, value: float, images: torch.Tensor) -> None:
        """A line of the log, and the images (B, 3 or 1, H, W) side by side in step_NNNNN.png."""
        append_json_line({"step": step, "loss": value}, self.work / LOG)
        write_png(torch.cat(list(images), dim=-1), self.work / f"step_{step:05d}.png")

    def finish(self, images: torch.Tensor) -> None:
        """Write the last images (B, 3 or 1, H, W) in [-1, 1]; there is nothing to continue from any more."""
        for image, file in zip(images, self.images, strict=True):
            write_png(image, file)
        self.resume.unlink(missing_ok=True)


def write_png(image: torch.Tensor, file: Path) -> None:
    """An image (3 or 1, H, W) in [-1, 1] as an RGB file, whole or not at all."""
    with write_whole(file) as partial:
        tensor_to_pil_image(image.expand(3, -1, -1)).save(partial, format="png")


def read_images(files: list[Path]) -> np.ndarray:
    """Images of one size, uint8 (N, 3, H, W). Raises UserError where one is absent or none."""
    for file in files:
        if not file.is_file():
            raise UserError(f"no image {file}")
    return np.stack([np.asarray(read_picture(file, str(file))).transpose(2, 0, 1) for file in files])


def draw_sheet(rows: dict[str, list[Path]], file: Path) -> None:
    """A picture of rows of image files by title, large ones made smaller."""
    pixels = []
    for files in rows.values():
        images = [Image.fromarray(image.transpose(1, 2, 0)) for image in read_images(files)]
        for image in images:
            image.thumbnail((SHOWN, SHOWN))
        pixels.append(np.stack([np.asarray(image).transpose(2, 0, 1) for image in images]))
    scale = max(1, SHOWN // 2 // pixels[0].shape[2])
    with write_whole(file) as partial:
        contact_sheet(pixels, list(rows), scale).save(partial, format="png")
