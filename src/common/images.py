"""Images as tensors, as bytes and as pictures."""

import os
import struct
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageDraw, UnidentifiedImageError

from src.common.cli import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")  # endings of picture files
LEFT_BEHIND = ("thumbs.db", "desktop.ini", "__macosx")  # by systems and archivers, beside names that begin with a dot
ORIENTATION = 0x0112  # EXIF's number of the turn that a camera noted


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or what systems leave behind: it is passed over without a word."""
    return name.startswith(".") or name.casefold() in LEFT_BEHIND


def is_picture(name: str) -> bool:
    """Whether a file of this name is read as a picture."""
    return name.lower().endswith(PICTURES) and not is_hidden(name)


def list_pictures(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the pictures directly in a folder, sorted, and of what else is in it and is left out.

    Left out are files that are no pictures, links to nothing, and folders that hold pictures, with a slash at the end; a link
    to a picture is one. Raises UserError where the folder cannot be read.
    """
    pictures, left_out = [], []
    for entry in scan(folder):
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            if os.access(entry.path, os.R_OK | os.X_OK) and any(is_picture(inner.name) for inner in scan(Path(entry.path))):
                left_out.append(f"{entry.name}/")
        else:
            (pictures if is_picture(entry.name) and entry.is_file() else left_out).append(entry.name)
    return sorted(pictures), sorted(left_out)


def scan(folder: Path) -> list[os.DirEntry]:
    """What is in a folder. Raises UserError where it cannot be read."""
    try:
        return list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error


def say_left_out(folder: str | Path, names: Sequence[str]) -> None:
    """Print one line about the files and folders (with a slash at the end) that are not read; none where there are none."""
    if names:
        what = "file or folder is" if len(names) == 1 else "files or folders are"
        print(f"{folder}: {len(names):,} {what} left out, such as {printable(names[0])}; pictures end in {' '.join(PICTURES)}")


def printable(name: str) -> str:
    """A file's name as it can be printed, whichever encoding it is in."""
    return name.encode("utf-8", "backslashreplace").decode()


class Remarks:
    """What is lost of the pictures of a folder or zip file when they are read, to be said in one line. Threads may share it.

    counts: what was lost -> the number of pictures, and the first by name of them.
    """

    def __init__(self, folder: str | Path, counts: Mapping[str, tuple[int, str]] | None = None):
        self.folder, self.counts, self.lock = folder, dict(counts or {}), threading.Lock()

    def add(self, lost: str, name: str) -> None:
        """Count a picture, named as of read_picture, of which this was lost."""
        short = name.removeprefix(str(self.folder)).lstrip(":/ ")
        with self.lock:
            count, first = self.counts.get(lost, (0, short))
            self.counts[lost] = count + 1, min(first, short)

    def say(self) -> None:
        """Print the line, if anything was lost."""
        if self.counts:
            parts = [f"{lost} ({count:,}, such as {printable(first)})" for lost, (count, first) in sorted(self.counts.items())]
            print(f"{self.folder}: read as RGB of 8 bits: {'; '.join(parts)}; see docs/pictures.md")


def read_picture(source: Path | IO[bytes], name: str, remarks: Remarks | None = None) -> Image.Image:
    """A picture file as RGB with 8 bits a channel, as torchvision's ImageFolder and the packages of FID read it.

    That is Pillow's convert("RGB"); but grey of 16 bits is scaled, not clipped, and 32 bits are refused: docs/pictures.md.

    name: for errors and remarks. remarks: takes what was lost of the picture.

    Raises UserError where it is no picture, is cut off, or has more pixels than any image here may.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)  # it is a remark
            with Image.open(source) as image:
                lost = ["16 bits are scaled to 8"] if _has_16_bits(image) else []
                lost += ["frames after the first are left out"] if getattr(image, "n_frames", 1) > 1 else []
                image.load()
                if remarks is not None:
                    for words in lost + _lost(image):
                        remarks.add(words, name)
                if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
                    kind = "floating point" if image.mode == "F" else "whole numbers of 32 bits"
                    raise ValueError(f"pixels of {kind}; expected 8 or 16 bits")
                if image.mode.startswith("I"):  # 16 bits; Pillow would clip them to 8
                    values = np.asarray(image).astype(np.float64)
                    return Image.fromarray(np.clip(values / 257, 0, 255).round().astype(np.uint8)).convert("RGB")
                return image.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{name}: too large a picture ({str(error).partition(' exceeds')[0]})") from error
    except UnidentifiedImageError as error:
        size = source.stat().st_size if isinstance(source, Path) else source.seek(0, os.SEEK_END)
        reason = "in no format that Pillow knows" if size else "the file is empty"
        raise UserError(f"{name}: not a readable image ({reason})") from error
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: Pillow's for a broken PNG
        raise UserError(f"{name}: not a readable image ({error})") from error


def _has_16_bits(image: Image.Image) -> bool:
    """Whether a picture that is not decoded yet stores more than 8 bits a channel."""
    for _, _, _, args in image.tile:
        args = args if isinstance(args, tuple) else (args,)
        if any(isinstance(arg, str) and ";16" in arg for arg in args):
            return True
        if image.format == "PPM" and any(isinstance(arg, int) and arg > 255 for arg in args[1:]):
            return True
    return False


def _lost(image: Image.Image) -> list[str]:
    """What of a decoded picture is lost in RGB, in words."""
    transparent = image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255
    profile = image.info.get("icc_profile") or b""
    foreign = profile and b"sRGB" not in profile.replace(b"\0", b"")  # names stand there in ASCII or UTF-16
    try:
        turned = image.getexif().get(ORIENTATION, 1) in range(2, 9)
    except (SyntaxError, ValueError, OSError, KeyError, TypeError, struct.error):  # what Pillow raises for damaged EXIF
        turned = False
    found = {
        "transparency is dropped and hidden colours show": transparent,
        "CMYK is converted without its colour profile": image.mode == "CMYK",
        "turned by EXIF, and read as stored": turned,
        "the colour profile is not applied": image.mode != "CMYK" and foreign,
    }
    return [words for words, here in found.items() if here]


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] as uint8 in 0..255 of the same shape: clamp, scale, round."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels in 0..255 as float32 in [-1, 1] of the same shape."""
    return pixels.float() / 127.5 - 1


def tensor_to_pil_image(tensor: torch.Tensor) -> Image.Image | list[Image.Image]:
    """Images in [-1, 1] as 8-bit PIL images: (B, 3, H, W) gives a list of B, also for B = 1; (3, H, W) gives one image."""
    if tensor.ndim not in (3, 4):
        raise ValueError(f"expected (B, 3, H, W) or (3, H, W), got {tuple(tensor.shape)}")
    pixels = to_uint8(tensor).movedim(-3, -1).cpu().numpy()
    return Image.fromarray(pixels) if tensor.ndim == 3 else [Image.fromarray(image) for image in pixels]


def contact_sheet(rows: Sequence[np.ndarray], captions: Sequence[str], scale: int = 2) -> Image.Image:
    """A picture of rows of images with captions. rows: uint8 arrays (N, 3, H, W); scale: enlargement in whole pixels."""
    margin = 8 + max(7 * len(caption) for caption in captions)
    (_, _, height, width), count = rows[0].shape, max(map(len, rows))
    sheet = Image.new("RGB", (margin + count * width * scale, len(rows) * height * scale), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        strip = Image.fromarray(np.concatenate(list(row), axis=2).transpose(1, 2, 0))
        sheet.paste(strip.resize((strip.width * scale, strip.height * scale), Image.NEAREST), (margin, y * height * scale))
        draw.text((4, (y + 0.5) * height * scale), caption, fill="black", anchor="lm")
    return sheet
