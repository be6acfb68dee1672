"""Image files of score distillation: written, read, and side by side on a sheet."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from src.common.cli import UserError
from src.common.distilled import file_stem
from src.common.files import write_whole
from src.common.images import contact_sheet, read_picture, tensor_to_pil_image

SHOWN = 128  # pixels of the longer side of an image on a sheet, at most


def image_names(prompt: str, particles: int) -> list[str]:
    """The file names of the images of a prompt."""
    stem = file_stem(prompt)
    return [f"{stem}.png"] if particles == 1 else [f"{stem}_{number}.png" for number in range(particles)]


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
