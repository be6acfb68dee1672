"""Image folders and zip files as one uint8 array, decoded once and then memory-mapped."""

import hashlib
import io
import itertools
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

Item = TypeVar("Item")
WINDOW = 256  # files that are read ahead
MANY = 50_000  # files whose comparison with the cache has a progress bar


def load_images(root: str | Path, ids: Sequence[str], size: int = 64) -> np.ndarray:
    """The images of these ids, resized, as one read-only memory-mapped array (len(ids), 3, size, size), uint8, in their order.

    Raises UserError as images_by_id does, where root lacks ids (count and first five), and for a corrupt image.
    """
    root = Path(root)
    names, left_out = images_by_id(root)
    if missing := [name for name in ids if name not in names]:
        raise UserError(
            f"{root}: {len(missing)} of {len(ids)} images are missing, first {', '.join(missing[:5])}; "
            f"the source has {len(names)} images"
        )
    say_left_out(root, left_out)
    return cached_pictures([size], root, [names[name] for name in ids], lambda picture, _: resized(picture, size))


def resized(picture: Image.Image, size: int) -> np.ndarray:
    """A picture (3, size, size), resized with Pillow's bilinear filter, as torchvision's Resize does it."""
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def images_by_id(root: Path) -> tuple[dict[str, str], list[str]]:
    """The images `ID.png (or jpg, webp, bmp, tif)` of a folder or zip file, in its root or in `cropped/`: ID -> name inside it.

    Beside them the names of what is left out. Raises UserError if root is absent, is no zip file, holds no such image, or holds
    two of one ID.
    """
    if not root.exists():
        raise UserError(f"no data at {root}: expected a folder or zip file of images named ID.png (--data_root)")
    found, left_out = _in_folder(root) if root.is_dir() else _in_zip(root)
    if not found:
        raise UserError(f"{root}: no images ID.png (or jpg, webp, bmp, tif) in it or in cropped/")
    names = {PurePosixPath(name).stem: name for name in found}
    if surplus := [name for name in found if names[PurePosixPath(name).stem] != name]:
        both = f"{surplus[0]} and {names[PurePosixPath(surplus[0]).stem]}"
        raise UserError(f"{root}: {both} are two images of one ID, and so are {len(surplus)} in all: keep one of each")
    return names, left_out


def _in_folder(root: Path) -> tuple[list[str], list[str]]:
    """The names of the images, and of what is left out."""
    pictures, left_out = list_pictures(root)
    cropped = root / "cropped"
    if pictures or not cropped.is_dir():
        return pictures, left_out
    pictures, others = list_pictures(cropped)
    left_out = [name for name in left_out if name != "cropped/"] + [f"cropped/{name}" for name in others]
    return [f"cropped/{name}" for name in pictures], left_out


def _in_zip(root: Path) -> tuple[list[str], list[str]]:
    """The names of the images, and of what is left out."""
    names = [name for name in zip_entries(root) if not any(map(is_hidden, PurePosixPath(name).parts))]
    for folder in ("", "cropped"):
        if chosen := [name for name in names if os.path.dirname(name) == folder and is_picture(os.path.basename(name))]:
            return chosen, sorted(set(names) - set(chosen))
    return [], []


def zip_entries(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The files in a zip file by their names. Raises UserError where it cannot be read, or has two of one name."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: not a readable zip file ({error})") from error
    ((name, count),) = Counter(info.filename for info in infos).most_common(1) or [("", 0)]
    if count > 1:
        raise UserError(f"{path}: two files in it are called {name}: pack it anew")
    return {info.filename: info for info in infos}


def content_hash(root: Path, names: Sequence[str]) -> str:
    """A hash of the bytes of these files of a folder or zip file, in their order: what the cache knows them by.

    Different files often enough have equal sizes and times, so that a folder's files are read. Those of a zip file have
    checksums, which reading verifies. Raises UserError where a file cannot be read.
    """
    digest = hashlib.sha256()
    if root.is_dir():
        title = "comparing with the cache" if len(names) > MANY else None
        for part in read_files(root, names, lambda data, _: hashlib.sha256(data).digest(), title):
            digest.update(part)
    else:
        entries = zip_entries(root)
        digest.update(json.dumps([[entries[name].file_size, entries[name].CRC] for name in names]).encode())
    return digest.hexdigest()


def read_files(
    root: Path, names: Sequence[str], decode: Callable[[bytes, str], Item], title: str | None = None
) -> Iterator[Item]:
    """Yield decode(file's bytes, file's name) for each of these names inside a folder or zip file, in order.

    Several threads work, at most WINDOW files ahead of what is taken; the first file is done before all others. title: of a
    progress bar; None: without one.

    Raises UserError where a file cannot be read, and whatever decode raises.
    """
    archive = None if root.is_dir() else zipfile.ZipFile(root)

    def one(name: str) -> Item:
        try:
            data = archive.read(name) if archive else (root / name).read_bytes()
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # RuntimeError: encrypted
            raise UserError(f"{root}: cannot read {name} ({error})") from error
        return decode(data, name)

    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool, Progress(len(names), title, "image") as progress:
            for start, stop in itertools.pairwise((0, *range(1, len(names), WINDOW), len(names))):
                for item in pool.map(one, names[start:stop]):
                    yield item
                    progress.update()
    finally:
        if archive:
            archive.close()


def read_pictures(
    root: Path, names: Sequence[str], convert: Callable[[Image.Image, str], Item], remarks: Remarks, title: str = "decoding"
) -> Iterator[Item]:
    """As read_files: convert(picture as RGB, file's name). remarks takes what was lost of the pictures."""
    read = lambda data, name: convert(read_picture(io.BytesIO(data), f"{root}: {name}", remarks), name)  # noqa: E731
    return read_files(root, names, read, title)


def cached_pictures(
    key: Sequence[object], root: Path, names: Sequence[str], convert: Callable[[Image.Image, str], np.ndarray]
) -> np.ndarray:
    """What read_pictures gives, uint8 of one shape, as one array, kept as of cached_array under this key and their content.

    What was lost of the pictures is printed in one line, also where they come from the cache.
    """
    key = [*key, content_hash(root, names)]
    kept, remarks = cache_file(key).with_suffix(".json"), Remarks(root)

    def read() -> np.ndarray:
        for i, pixels in enumerate(read_pictures(root, names, convert, remarks)):
            if i == 0:
                pictures = np.empty((len(names), *pixels.shape), np.uint8)
            pictures[i] = pixels
        if remarks.counts:
            save_json(remarks.counts, kept)
        return pictures

    array = cached_array(key, read)
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
