"""Image folders and zip files as one uint8 array, decoded once and then memory-mapped."""

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from PIL import Image

from src.common.cli import UserError
from src.common.files import cache_dir, check_writable, load_json, save_json, write_whole
from src.common.images import Remarks, is_hidden, is_picture, list_pictures, read_picture, say_left_out
from src.common.progress import Progress

Decoded = TypeVar("Decoded")
WINDOW = 256  # files that are decoded ahead
MANY = 50_000  # files whose reading has a progress bar


class ImageSource:
    """The images `ID.png (or jpg, webp, bmp, tif)` of a folder or zip file, in its root or in `cropped/`, by their ID.

    Attributes:
        root: the folder or file.
        names: ID -> name inside the source.
        left_out: names of what lies beside them and is not read.

    Raises UserError if root is absent, is no zip file, holds no such image, or holds two of one ID.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if self.root.is_dir():
            found, self.left_out = self._in_folder()
        elif self.root.is_file():
            found, self.left_out = self._in_zip()
        else:
            raise UserError(f"no data at {self.root}: expected a folder or zip file of images named ID.png (--data_root)")
        if not found:
            raise UserError(f"{self.root}: no images ID.png (or jpg, webp, bmp, tif) in it or in cropped/")
        self.names = {PurePosixPath(name).stem: name for name in found}
        if surplus := [name for name in found if self.names[PurePosixPath(name).stem] != name]:
            both = f"{surplus[0]} and {self.names[PurePosixPath(surplus[0]).stem]}"
            raise UserError(f"{self.root}: {both} are two images of one ID, and so are {len(surplus)} in all: keep one of each")

    def _in_folder(self) -> tuple[list[str], list[str]]:
        """The names of the images, and of what is left out."""
        pictures, left_out = list_pictures(self.root)
        cropped = self.root / "cropped"
        if pictures or not cropped.is_dir():
            return pictures, left_out
        pictures, others = list_pictures(cropped)
        left_out = [name for name in left_out if name != "cropped/"] + [f"cropped/{name}" for name in others]
        return [f"cropped/{name}" for name in pictures], left_out

    def _in_zip(self) -> tuple[list[str], list[str]]:
        names = [name for name in zip_entries(self.root) if not any(map(is_hidden, PurePosixPath(name).parts))]
        for folder in ("", "cropped"):
            if chosen := [name for name in names if os.path.dirname(name) == folder and is_picture(os.path.basename(name))]:
                return chosen, sorted(set(names) - set(chosen))
        return [], []

    def content(self, ids: Sequence[str]) -> str:
        """What content_hash says of the images of these ids, in their order."""
        return content_hash(self.root, [self.names[image_id] for image_id in ids])

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


def zip_entries(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The files in a zip file by their names. Raises UserError where it cannot be read, or has two of one name."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: not a readable zip file ({error})") from error
    found = {info.filename: info for info in infos}
    if len(found) < len(infos):
        twice = next(name for name, count in Counter(info.filename for info in infos).items() if count > 1)
        raise UserError(f"{path}: two files in it are called {twice}: pack it anew")
    return found


def content_hash(root: Path, names: Sequence[str]) -> str:
    """A hash of the bytes of these files of a folder or zip file, in their order: what a cache knows them by.

    Sizes and times of files are the same for different files often enough (copied, unpacked, drawn by a program), so that all
    bytes of a folder's files are read. A zip file has a checksum of each file, which reading it verifies: those are taken.

    Raises UserError where a file cannot be read.
    """
    digest = hashlib.sha256()
    if root.is_dir():
        title = "comparing with the cache" if len(names) > MANY else None
        for found in read_files(root, names, lambda data, _: hashlib.sha256(data).digest(), title):
            digest.update(found)
    else:
        entries = zip_entries(root)
        digest.update(json.dumps([[entries[name].file_size, entries[name].CRC] for name in names]).encode())
    return digest.hexdigest()


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


def decode_image(data: bytes, name: str, size: int, remarks: Remarks | None = None) -> np.ndarray:
    """An encoded image as RGB (3, size, size) uint8, resized with Pillow's bilinear filter, as torchvision's Resize does it."""
    picture = read_picture(io.BytesIO(data), name, remarks).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture).transpose(2, 0, 1)


def load_images(root: str | Path, ids: Sequence[str], size: int = 64) -> np.ndarray:
    """The images of these ids as one read-only memory-mapped array (len(ids), 3, size, size), uint8, in their order.

    They are decoded at the first call and cached by their content and the size.

    Raises UserError if the source is absent, lacks ids (count and first five), holds two images of one id or a corrupt image.
    """
    source = ImageSource(root)
    source.require(ids)
    say_left_out(source.root, source.left_out)

    def read(remarks: Remarks) -> np.ndarray:
        return np.stack(source.read_all(ids, lambda data, name: decode_image(data, name, size, remarks)))

    return cached_pictures([size, source.content(ids)], source.root, read)


def cached_pictures(key: object, root: Path, read: Callable[[Remarks], np.ndarray]) -> np.ndarray:
    """read(remarks)'s array of the pictures of a folder or zip file, kept as of cached_array under this key.

    What was lost of the pictures is printed in one line, also where they come from the cache.
    """
    kept = cache_file(key).with_suffix(".json")
    remarks = Remarks(root)

    def make() -> np.ndarray:
        array = read(remarks)
        if remarks.counts:
            save_json(remarks.counts, kept)
        return array

    array = cached_array(key, make)
    if not remarks.counts and kept.is_file():
        remarks = Remarks(root, load_json(kept))
    remarks.say()
    return array


def cache_file(key: object) -> Path:
    """Where cached_array keeps the array of this key."""
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    return cache_dir() / "images" / f"{digest}.npy"


def cached_array(key: object, make: Callable[[], np.ndarray]) -> np.ndarray:
    """make()'s array, memory-mapped read-only from the project's cache, where it is kept under a hash of key (JSON-able)."""
    path = cache_file(key)
    if path.is_file():
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, EOFError, ValueError) as error:
            print(f"{path} is damaged ({error}): making it again")
    check_writable(path)
    array = make()
    with write_whole(path) as partial, open(partial, "wb") as file:
        np.save(file, array)
    return np.load(path, mmap_mode="r")
