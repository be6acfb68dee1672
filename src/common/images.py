"""Images as tensors, as bytes and as pictures."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageDraw, UnidentifiedImageError

from src.common.cli import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")  # endings of picture files


def read_picture(source: Path | IO[bytes], name: str) -> Image.Image:
    """A picture file as RGB with 8 bits a channel, whatever it holds; 16-bit values are scaled. name: for errors.

    Raises UserError where it is no picture, is cut off, or has more pixels than any image here may.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                if image.mode.startswith("I"):  # 16 bits; Pillow would clip them to 8
                    values = np.asarray(image).astype(np.float64)
                    return Image.fromarray(np.clip(values / 257, 0, 255).round().astype(np.uint8)).convert("RGB")
                if image.mode == "F":
                    raise ValueError("pixels of floating point; expected 8 or 16 bits")
                return image.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{name}: too large a picture ({str(error).partition(' exceeds')[0]})") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:  # SyntaxError: Pillow's for a broken PNG
        raise UserError(f"{name}: not a readable image ({error})") from error


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] as uint8 in 0..255 of the same shape: clamp, scale, round."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels in 0..255 as float32 in [-1, 1] of the same shape."""
    return pixels.float() / 127.5 - 1


def tensor_to_pil_image(tensor: torch.Tensor) -> Image.Image | list[Image.Image]:
    """Images in [-1, 1] as 8-bit PIL images: clamp, scale, round.

    tensor (B, 3, H, W) gives a list of B images, also for B = 1; (3, H, W) gives one image.
    """
    if tensor.ndim not in (3, 4):
        raise ValueError(f"expected (B, 3, H, W) or (3, H, W), got {tuple(tensor.shape)}")
    pixels = to_uint8(tensor).movedim(-3, -1).cpu().numpy()
    return Image.fromarray(pixels) if tensor.ndim == 3 else [Image.fromarray(image) for image in pixels]


def contact_sheet(rows: Sequence[np.ndarray], labels: Sequence[str], scale: int = 2) -> Image.Image:
    """A picture of labelled rows of images. rows: uint8 arrays (N, 3, H, W); scale: enlargement in whole pixels."""
    margin = 8 + max(7 * len(label) for label in labels)
    (_, _, height, width), count = rows[0].shape, max(map(len, rows))
    sheet = Image.new("RGB", (margin + count * width * scale, len(rows) * height * scale), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (row, label) in enumerate(zip(rows, labels, strict=True)):
        strip = Image.fromarray(np.concatenate(list(row), axis=2).transpose(1, 2, 0))
        sheet.paste(strip.resize((strip.width * scale, strip.height * scale), Image.NEAREST), (margin, y * height * scale))
        draw.text((4, (y + 0.5) * height * scale), label, fill="black", anchor="lm")
    return sheet
