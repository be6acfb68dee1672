"""Image folders and zip files as one uint8 array, decoded once and then memory-mapped."""

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from src.common.cli import UserError
from src.common.files import cache_dir, write_whole
from src.common.images import PICTURES, read_picture
from src.common.progress import Progress

Decoded = TypeVar("Decoded")
WINDOW = 256  # files that are decoded ahead


class ImageSource:
    """The images `ID.png (or jpg, webp, bmp, tif)` of a folder or zip file, in its root or in `cropped/`, by their ID.

    Attributes:
        root: the folder or file.
        names: ID -> name inside the source.
        fingerprint: changes when an image is added, removed or replaced (names, sizes and checksums of a zip; names, sizes and
            modification times of a folder).

    Raises UserError if root is absent, is no zip file or holds no such image.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if self.root.is_dir():
            entries = self._folder_entries()
        elif self.root.is_file():
            entries = self._zip_entries()
        else:
            raise UserError(f"no data at {self.root}: expected a folder or zip file of images named ID.png (--data_root)")
        self.names = {Path(name).stem: name for name in entries}
        if not self.names:
            raise UserError(f"{self.root}: no images ID.png (or jpg, webp, bmp, tif) in it or in cropped/")
        self.fingerprint = hashlib.sha256(json.dumps(sorted(entries.items())).encode()).hexdigest()

    def _folder_entries(self) -> dict[str, list[int]]:
        def scan(folder: Path) -> dict[str, list[int]]:
            found = [entry for entry in os.scandir(folder) if entry.name.lower().endswith(PICTURES) and entry.is_file()]
            stats = [(os.path.relpath(entry.path, self.root), entry.stat()) for entry in found]
            return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats}

        cropped = self.root / "cropped"
        return scan(self.root) or (scan(cropped) if cropped.is_dir() else {})

    def _zip_entries(self) -> dict[str, list[int]]:
        try:
            with zipfile.ZipFile(self.root) as archive:
                infos = [info for info in archive.infolist() if info.filename.lower().endswith(PICTURES)]
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{self.root}: not a readable zip file ({error})") from error
        for folder in ("", "cropped"):
            inside = [info for info in infos if os.path.dirname(info.filename) == folder]
            if inside:
                return {info.filename: [info.file_size, info.CRC] for info in inside}
        return {}

    def require(self, ids: Sequence[str]) -> None:
        """Raise UserError with the count and the first five of those ids that the source lacks."""
        missing = [name for name in ids if name not in self.names]
        if missing:
            raise UserError(
                f"{self.root}: {len(missing)} of {len(ids)} images are missing, first {', '.join(missing[:5])}; "
                f"the source has {len(self.names)} images"
            )

    def read_all(self, ids: Sequence[str], decode: Callable[[bytes, str], np.ndarray]) -> list[np.ndarray]:
        """decode(file's bytes, file's name) for each id, in order."""
        return list(read_files(self.root, [self.names[image_id] for image_id in ids], decode))


def read_files(
    root: Path, names: Sequence[str], decode: Callable[[bytes, str], Decoded], title: str | None = "decoding"
) -> Iterator[Decoded]:
    """Yield decode(file's bytes, file's name) for each of these names inside a folder or zip file, in order.

    Several threads work, at most WINDOW files ahead of what is taken. title: of a progress bar; None: without one.

    Raises UserError where a file cannot be read, and whatever decode raises.
    """
    archive = None if root.is_dir() else zipfile.ZipFile(root)

    def one(name: str) -> Decoded:
        try:
            data = archive.read(name) if archive else (root / name).read_bytes()
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # RuntimeError: encrypted
            raise UserError(f"{root}: cannot read {name} ({error})") from error
        return decode(data, name)

    try:
        with (
            ThreadPoolExecutor(os.cpu_count()) as pool,
            Progress(len(names), title, "image") as progress,
        ):
            for start in range(0, len(names), WINDOW):
                for decoded in pool.map(one, names[start : start + WINDOW]):
                    yield decoded
                    progress.update()
    finally:
        if archive:
            archive.close()


def decode_image(data: bytes, name: str, size: int) -> np.ndarray:
    """An encoded image as RGB (3, size, size) uint8, resized with Pillow's bilinear filter, as torchvision's Resize does it."""
    picture = read_picture(io.BytesIO(data), name).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture).transpose(2, 0, 1)


def load_images(root: str | Path, ids: Sequence[str], size: int = 64) -> np.ndarray:
    """The images of these ids as one read-only memory-mapped array (len(ids), 3, size, size), uint8, in their order.

    They are decoded at the first call and cached by the source's fingerprint, the ids and the size.

    Raises UserError if the source is absent, lacks ids (count and first five) or holds a corrupt image (its name).
    """
    source = ImageSource(root)
    source.require(ids)
    return cached_array(
        [source.fingerprint, list(ids), size],
        lambda: np.stack(source.read_all(ids, lambda data, name: decode_image(data, name, size))),
    )


def cached_array(key: object, make: Callable[[], np.ndarray]) -> np.ndarray:
    """make()'s array, memory-mapped read-only from the project's cache, where it is kept under a hash of key (JSON-able)."""
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    path = cache_dir() / "images" / f"{digest}.npy"
    if path.is_file():
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, EOFError, ValueError) as error:
            print(f"{path} is damaged ({error}): making it again")
    array = make()
    with write_whole(path) as partial, open(partial, "wb") as file:
        np.save(file, array)
    return np.load(path, mmap_mode="r")
