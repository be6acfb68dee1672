"""Images with classes at their own resolution: a folder of class folders, or a zip file in EDM's format.

    ROOT/train/CLASS/*.jpg  ROOT/val/CLASS/*.jpg     two splits
    ROOT/CLASS/*.jpg                                 training images alone
    ROOT/*.jpg  ROOT/train/*.jpg                     the same without labels
    ROOT.zip: NNNNN/imgNNNNNNNN.png, dataset.json    as EDM's dataset_tool.py writes it; or the folder that it was unpacked to

dataset.json is {"labels": [[file, class], ...]} with classes from 0, or {"labels": null}; without the file there are no labels.
Hidden files and folders, macOS's __MACOSX and files that are no pictures are passed over.
"""

import hashlib
import io
import json
import os
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from src.common.cli import UserError
from src.common.images import PICTURES, read_picture
from src.datasets.images import cached_array, read_files

SMALLEST, LARGEST = 16, 128  # pixels of a side
MOST_CLASSES = 65536
METADATA = "dataset.json"
SPLITS = {"train", "val", "test", "valid", "validation", "dev"}  # names of folders that are no classes

Entries = dict[str, list[int]]  # name inside the root -> what changes with the file's content


@dataclass(frozen=True, eq=False)
class LabelledFiles:
    """The image files of one split of a data set, in the order of its images.

    Args:
        root: a folder, or a zip file.
        entries: name inside it -> size and modification time in ns; in a zip file size and checksum.
        labels: int64 (N,), 1..C; None where there are none.
        classes: the names of the classes 1..C; empty without labels.
    """

    root: Path
    entries: Entries
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return list(self.entries)

    @cached_property
    def fingerprint(self) -> str:
        """Changes when an image is added, removed, renamed or replaced."""
        return hashlib.sha256(json.dumps(list(self.entries.items())).encode()).hexdigest()


def load_labelled(split: str, root: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The images of a split ("train" or "val") and their labels, int64 (N,), or None.

    Images are a read-only memory map, uint8 (N, 3, S, S), decoded at the first call and kept in the project's cache. Grey ones
    are read as RGB of three equal channels.

    Raises UserError where find_files does, where an image is unreadable or not square, where its side is not of 16 to 128
    pixels, or where images are of several sizes.
    """
    files = find_files(split, root)
    return cached_array(["labelled", files.fingerprint], lambda: decode_images(files)), files.labels


def class_names(root: str | Path) -> tuple[str, ...]:
    """The names of the classes of the training images at root; empty where they have no labels. UserError as of find_files."""
    return find_files("train", root).classes


def has_validation(root: str | Path) -> bool:
    """Whether the data at root have images apart for validation."""
    root = Path(root)
    return root.is_dir() and has_splits(root) and (root / "val").is_dir()


def decode_images(files: LabelledFiles) -> np.ndarray:
    """The images, uint8 (N, 3, S, S). Raises UserError, naming the first that is amiss, as load_labelled does."""
    first = files.names[0]
    side = next(read_files(files.root, [first], lambda data, name: image_side(files.root, name, data), None))

    def decode(data: bytes, name: str) -> np.ndarray:
        picture = open_picture(files.root, name, data)
        if picture.size != (side, side):
            raise UserError(
                f"{files.root}: images of several sizes: {first} is {side}x{side}, {name} is {describe_size(picture)}; "
                "python -m src.datasets.pack_zip --resolution brings them to one"
            )
        return np.asarray(picture).transpose(2, 0, 1)

    images = np.empty((len(files.names), 3, side, side), np.uint8)
    for i, pixels in enumerate(read_files(files.root, files.names, decode)):
        images[i] = pixels
    return images


def image_side(root: Path, name: str, data: bytes) -> int:
    """The side of an image in pixels. Raises UserError where it is unreadable, not square, too small or too large."""
    picture = open_picture(root, name, data)
    if picture.width != picture.height or not SMALLEST <= picture.width <= LARGEST:
        raise UserError(
            f"{root}: {name} is {describe_size(picture)}, expected a square of {SMALLEST} to {LARGEST} pixels; "
            "python -m src.datasets.pack_zip --resolution crops and resizes"
        )
    return picture.width


def open_picture(root: Path, name: str, data: bytes) -> Image.Image:
    """The picture as RGB. Raises UserError where it is unreadable."""
    return read_picture(io.BytesIO(data), f"{root}: {name}")


def describe_size(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height}"


# ------------------------------------------------------------------------------------------------------------- folders


def find_files(split: str, root: str | Path) -> LabelledFiles:
    """The image files of a split ("train" or "val") of the data at root, with their labels.

    Class folders have labels 1, 2 ... by their sorted names, those of the training images in both splits. Class k of
    dataset.json has the label k + 1 and the name str(k).

    Raises UserError where root is absent, no folder and no zip file, or has no such split; where it has no images, a class
    folder without any, or images beside class folders; where validation images are of a class without training images; and
    where dataset.json is malformed, names files that are absent, or leaves images out.
    """
    root = Path(root)
    if not root.exists():
        raise UserError(f"no data at {root}: expected a folder of class folders, or a zip file in EDM's format (--data_root)")
    if root.is_dir() and has_splits(root):
        if not (root / split).is_dir():
            raise UserError(f"{root} has no {split} images: its folders are {', '.join(subfolders(root))}, not {split}")
        found = find_in_folder(root / split)
        return found if split == "train" else with_classes_of(find_in_folder(root / "train"), found)
    if split != "train":
        raise UserError(
            f"{root} has no {split} images: all that it holds are for training; a folder with train/ and {split}/ has both"
        )
    return find_in_folder(root) if root.is_dir() else find_in_zip(root)


def has_splits(root: Path) -> bool:
    """Whether a folder is divided into splits: its folder "train" is not a class beside others, such as trains beside cars."""
    folders = subfolders(root)
    if "train" not in folders:
        return False
    return set(folders) <= SPLITS or any(pictures_in(folder) for folder in subfolders(folders["train"]).values())


def find_in_folder(root: Path) -> LabelledFiles:
    """The images of a folder of class folders, of a folder of images, or of an unpacked zip file in EDM's format."""
    if (root / METADATA).is_file():
        return find_unpacked(root)
    folders, loose = subfolders(root), pictures_in(root)
    classes = {name: pictures_in(folder, root) for name, folder in folders.items()}
    if loose and any(classes.values()):
        raise UserError(
            f"{root} holds {len(loose)} images, such as {next(iter(loose))}, beside class folders ({', '.join(classes)}): put "
            "them into the folder of their class, or elsewhere"
        )
    if loose:
        return LabelledFiles(root, loose)
    if not classes:
        raise UserError(f"{root} holds no class folders and no images ({', '.join(PICTURES)})")
    if empty := next((name for name, images in classes.items() if not images), None):
        inside = ", ".join(subfolders(folders[empty]))
        more = f"; the folders in it ({inside}) are not searched" if inside else ""
        raise UserError(f"{root}: the class folder {empty} holds no images ({', '.join(PICTURES)}){more}")
    labels = [label for label, images in enumerate(classes.values(), start=1) for _ in images]
    entries = {name: stat for images in classes.values() for name, stat in images.items()}
    return LabelledFiles(root, entries, np.array(labels, np.int64), tuple(classes))


def find_unpacked(root: Path) -> LabelledFiles:
    """The images of a folder that a zip file in EDM's format was unpacked to."""
    folders = [Path(folder) for folder, _, _ in os.walk(root)]
    visible = [folder for folder in folders if not any(map(is_hidden, folder.relative_to(root).parts))]
    entries = {name: stat for folder in visible for name, stat in pictures_in(folder, root).items()}
    return with_metadata(root, dict(sorted(entries.items())), (root / METADATA).read_bytes())


def with_classes_of(train: LabelledFiles, files: LabelledFiles) -> LabelledFiles:
    """The files with the labels that their classes have among the training images; without where those have none.

    Raises UserError for a class that has no training images.
    """
    if files.labels is None or train.labels is None:
        return LabelledFiles(files.root, files.entries)
    if unknown := next((name for name in files.classes if name not in train.classes), None):
        raise UserError(
            f"{files.root}: class {unknown} has no training images; those of {train.root} are of {', '.join(train.classes)}"
        )
    label_of = np.array([train.classes.index(name) + 1 for name in files.classes], np.int64)
    return LabelledFiles(files.root, files.entries, label_of[files.labels - 1], train.classes)


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES) and not is_hidden(name)


def subfolders(folder: Path) -> dict[str, Path]:
    """Name -> folder, of the folders in a folder, sorted by name.

    Names are composed, since macOS takes accents and syllables apart; what is not UTF-8 is escaped, so that it can be printed.

    Raises UserError where the folder cannot be read, or two have the same name but for that.
    """
    found: dict[str, Path] = {}
    for entry in scan(folder):
        name = unicodedata.normalize("NFC", entry.name.encode("utf-8", "backslashreplace").decode())
        if is_hidden(name) or not entry.is_dir():
            continue
        if name in found:
            raise UserError(f"{folder} holds two folders called {name}, their names encoded in two ways: put them together")
        found[name] = Path(entry.path)
    return dict(sorted(found.items()))


def pictures_in(folder: Path, root: Path | None = None) -> Entries:
    """The pictures directly in a folder, sorted by name. Names begin at root, or at the folder. UserError as of scan."""
    stats = {entry.path: entry.stat() for entry in scan(folder) if is_picture(entry.name) and entry.is_file()}
    names = {Path(path).relative_to(root or folder).as_posix(): stat for path, stat in stats.items()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in sorted(names.items())}


def scan(folder: Path) -> list[os.DirEntry]:
    """What is in a folder. Raises UserError where it cannot be read."""
    try:
        return list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error


# ----------------------------------------------------------------------------------------------------------- zip files


def find_in_zip(root: Path) -> LabelledFiles:
    """The images of a zip file, sorted by name, and the labels of its dataset.json, where it has one."""
    try:
        with zipfile.ZipFile(root) as archive:
            infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            infos = {name: info for name, info in infos.items() if not any(map(is_hidden, parts_of(name)))}
            metadata = find_metadata(list(infos))
            data = archive.read(metadata) if metadata else None
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:  # RuntimeError: encrypted
        raise UserError(f"{root}: not a readable zip file ({error})") from error
    entries = {name: [info.file_size, info.CRC] for name, info in sorted(infos.items()) if is_picture(name)}
    if not entries:
        raise UserError(f"{root}: no images ({', '.join(PICTURES)}) in this zip file")
    if data is None:
        return LabelledFiles(root, entries)
    return with_metadata(root, entries, data, metadata.removesuffix(METADATA))


def parts_of(name: str) -> tuple[str, ...]:
    """The folders and the file of a name inside a zip file, which on Windows may have been written with backslashes."""
    return PurePosixPath(name.replace("\\", "/")).parts


def find_metadata(names: Sequence[str]) -> str:
    """The name of dataset.json at the top or in the one folder that holds everything; empty where there is none."""
    if METADATA in names:
        return METADATA
    tops = {parts_of(name)[:1] for name in names}
    return next((name for name in names if len(tops) == 1 and parts_of(name)[1:] == (METADATA,)), "")


def with_metadata(root: Path, entries: Entries, data: bytes, prefix: str = "") -> LabelledFiles:
    """The files with the labels of a dataset.json, whose text is data. prefix: of all files' names, not of those in data.

    Raises UserError where it is malformed, names files that are absent, or leaves images out.
    """
    if not entries:
        raise UserError(f"{root}: no images ({', '.join(PICTURES)}) beside {METADATA}")
    told = read_metadata(root, data)
    if told is None:
        return LabelledFiles(root, entries)
    names = [plain(name).removeprefix(plain(prefix)) for name in entries]
    here = set(names)
    for missing, words in (
        ([name for name in told if name not in here], "names {} files that are absent, first {}"),
        ([name for name in names if name not in told], "leaves out {} images, first {}"),
    ):
        if missing:
            raise UserError(f"{root}: {METADATA} {words.format(len(missing), missing[0])}")
    classes = np.array([told[name] for name in names], np.int64)
    return LabelledFiles(root, entries, classes + 1, tuple(map(str, range(classes.max() + 1))))


def read_metadata(root: Path, data: bytes) -> dict[str, int] | None:
    """File -> class, from 0, as a dataset.json says; None where it says that there are none.

    Raises UserError where it is malformed, or a class is no whole number from 0 to below MOST_CLASSES.
    """
    try:
        told = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{root}: {METADATA} is malformed JSON ({error})") from error
    labels = told.get("labels", False) if isinstance(told, dict) else False
    if labels is None:
        return None
    pairs = list(labels.items()) if isinstance(labels, Mapping) else labels
    if not isinstance(pairs, list) or not all(map(is_pair, pairs)):
        raise UserError(f'{root}: {METADATA} is not {{"labels": [[file, class], ...]}}, and not {{"labels": null}} either')
    found: dict[str, int] = {}
    for file, label in pairs:
        if type(label) is not int or not 0 <= label < MOST_CLASSES:
            expected = f"expected a whole number from 0 to {MOST_CLASSES - 1}"
            raise UserError(f"{root}: {METADATA} gives {file} the class {label!r}, {expected}")
        if found.setdefault(plain(file), label) != label:
            raise UserError(f"{root}: {METADATA} gives {file} two classes, {found[plain(file)]} and {label}")
    return found


def is_pair(item: object) -> bool:
    """Whether this is a file's name and something."""
    return isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], str)


def plain(name: str) -> str:
    """A name inside a zip file with slashes and composed letters, whichever system wrote it."""
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")
