"""Images with classes at their own resolution: a folder of class folders, or a zip file in EDM's format.

    ROOT/train/CLASS/*.jpg  ROOT/val/CLASS/*.jpg     two splits
    ROOT/CLASS/*.jpg                                 training images alone
    ROOT/*.jpg  ROOT/train/*.jpg                     the same without labels
    ROOT.zip: NNNNN/imgNNNNNNNN.png, dataset.json    as EDM's dataset_tool.py writes it; or the folder that it was unpacked to

dataset.json is {"labels": [[file, class], ...]} with classes from 0, or {"labels": null}; without the file there are no labels.
Hidden files and folders, macOS's __MACOSX and Windows' Thumbs.db are passed over. Other files that are no pictures are left
out, which is said.
"""

import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from src.common.cli import UserError
from src.common.images import PICTURES, is_hidden, is_picture, list_pictures, printable, say_left_out, scan
from src.datasets.images import cached_pictures, read_files, zip_entries

SMALLEST, LARGEST = 16, 128  # pixels of a side
MOST_CLASSES = 65536
METADATA = "dataset.json"
SPLITS = {"train", "val", "test", "valid", "validation", "dev"}  # names of folders that are no classes


@dataclass(frozen=True, eq=False)
class LabelledFiles:
    """The image files of one split of a data set, in the order of its images."""

    root: Path  # a folder, or a zip file
    names: Sequence[str]  # inside it
    labels: np.ndarray | None = None  # int64 (N,), 1..C; None where there are none
    classes: tuple[str, ...] = ()  # the names of the classes 1..C; empty without labels
    left_out: Sequence[str] = ()  # names of what lies beside the images and is not read


def load_labelled(split: str, root: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The images of a split ("train" or "val"), uint8 (N, 3, S, S), kept in the cache, and their labels, int64 (N,), or None.

    Raises UserError where find_files does, where an image is unreadable or not square, where its side is not of 16 to 128
    pixels, or where images are of several sizes.
    """
    files = find_files(split, root)
    say_left_out(files.root, files.left_out)
    first = []  # the size of the first picture, which is read before the others

    def pixels(picture: Image.Image, name: str) -> np.ndarray:
        size = f"{picture.width}x{picture.height}"
        if not first:
            if picture.width != picture.height or not SMALLEST <= picture.width <= LARGEST:
                raise UserError(
                    f"{files.root}: {name} is {size}, expected a square of {SMALLEST} to {LARGEST} pixels; "
                    "python -m src.datasets.pack_zip --resolution crops and resizes"
                )
            first.append(size)
        if size != first[0]:
            raise UserError(
                f"{files.root}: images of several sizes: {files.names[0]} is {first[0]}, {name} is {size}; "
                "python -m src.datasets.pack_zip --resolution brings them to one"
            )
        return np.asarray(picture).transpose(2, 0, 1)

    return cached_pictures(["labelled"], files.root, files.names, pixels), files.labels


def class_names(root: str | Path) -> tuple[str, ...]:
    """The names of the classes of the training images at root; empty where they have no labels. UserError as of find_files."""
    return find_files("train", root).classes


def has_validation(root: str | Path) -> bool:
    """Whether the data at root have images apart for validation."""
    root = Path(root)
    return root.is_dir() and has_splits(root) and (root / "val").is_dir()


# ------------------------------------------------------------------------------------------------------------- folders


def find_files(split: str, root: str | Path) -> LabelledFiles:
    """The image files of a split ("train" or "val") of the data at root, with their labels.

    Class folders have labels 1, 2 ... by their sorted names, those of the training images in both splits. Class k of
    dataset.json has the label k + 1 and the name str(k).

    Raises UserError where root or the split is absent; where there are no images, a class folder without any, or images beside
    class folders; where a class has validation images alone; and where dataset.json is malformed or does not fit the files.
    """
    root = Path(root)
    if not root.exists():
        raise UserError(f"no data at {root}: expected a folder of class folders, or a zip file in EDM's format (--data_root)")
    if root.is_dir() and has_splits(root):
        if not (root / split).is_dir():
            raise UserError(f"{root} has no {split} images: its folders are {', '.join(subfolders(root))}, not {split}")
        files = find_in_folder(root / split)
        return files if split == "train" else with_classes_of(find_in_folder(root / "train"), files)
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
    return set(folders) <= SPLITS or any(list_pictures(folder)[0] for folder in subfolders(folders["train"]).values())


def find_in_folder(root: Path) -> LabelledFiles:
    """The images of a folder of class folders, of a folder of images, or of an unpacked zip file in EDM's format."""
    if (root / METADATA).is_file():
        return find_unpacked(root)
    folders, (loose, left_out) = subfolders(root), list_pictures(root)
    found = {name: list_pictures(folder) for name, folder in folders.items()}
    if loose and any(pictures for pictures, _ in found.values()):
        raise UserError(
            f"{root} holds {len(loose)} images, such as {loose[0]}, beside class folders ({', '.join(found)}): put "
            "them into the folder of their class, or elsewhere"
        )
    if loose:
        return LabelledFiles(root, loose, left_out=left_out)
    if not found:
        raise UserError(f"{root} holds no class folders and no images ({', '.join(PICTURES)})")
    if empty := next((name for name, (pictures, _) in found.items() if not pictures), None):
        inside = ", ".join(subfolders(folders[empty]))
        deeper = f"; the folders in it ({inside}) are not searched" if inside else ""
        raise UserError(f"{root}: the class folder {empty} holds no images ({', '.join(PICTURES)}){deeper}")
    labels = [label for label, (pictures, _) in enumerate(found.values(), start=1) for _ in pictures]
    images, others = ([f"{folders[name].name}/{file}" for name in found for file in found[name][part]] for part in (0, 1))
    left_out = [name for name in left_out if not name.endswith("/")] + others
    return LabelledFiles(root, images, np.array(labels, np.int64), tuple(found), left_out)


def find_unpacked(root: Path) -> LabelledFiles:
    """The images of a folder that a zip file in EDM's format was unpacked to."""
    names, left_out = [], []
    for folder, _, _ in os.walk(root):
        here = Path(folder).relative_to(root)
        if not any(map(is_hidden, here.parts)):
            for found, files in zip((names, left_out), list_pictures(Path(folder)), strict=True):
                found += [(here / name).as_posix() for name in files if not name.endswith("/")]
    files = with_metadata(root, sorted(names), (root / METADATA).read_bytes())
    return replace(files, left_out=sorted(set(left_out) - {METADATA}))


def with_classes_of(train: LabelledFiles, files: LabelledFiles) -> LabelledFiles:
    """The files with the labels of the training images' classes, where those have any. UserError for any other class."""
    if files.labels is None or train.labels is None:
        return replace(files, labels=None, classes=())
    if unknown := next((name for name in files.classes if name not in train.classes), None):
        raise UserError(
            f"{files.root}: class {unknown} has no training images; those of {train.root} are of {', '.join(train.classes)}"
        )
    label_of = np.array([train.classes.index(name) + 1 for name in files.classes], np.int64)
    return replace(files, labels=label_of[files.labels - 1], classes=train.classes)


def subfolders(folder: Path) -> dict[str, Path]:
    """Name -> folder, of the folders in a folder, sorted by name.

    Names are composed, since macOS takes accents and syllables apart; what is not UTF-8 is escaped. Raises UserError where the
    folder cannot be read, or two names are then the same.
    """
    found: dict[str, Path] = {}
    for entry in scan(folder):
        name = unicodedata.normalize("NFC", printable(entry.name))
        if is_hidden(name) or not entry.is_dir():
            continue
        if name in found:
            raise UserError(f"{folder} holds two folders called {name}, their names encoded in two ways: put them together")
        found[name] = Path(entry.path)
    return dict(sorted(found.items()))


# ----------------------------------------------------------------------------------------------------------- zip files


def find_in_zip(root: Path) -> LabelledFiles:
    """The images of a zip file, sorted by name, and the labels of its dataset.json, where it has one."""
    files = [name for name in zip_entries(root) if not any(map(is_hidden, parts_of(name)))]
    names = sorted(name for name in files if is_picture(parts_of(name)[-1]))
    if not names:
        raise UserError(f"{root}: no images ({', '.join(PICTURES)}) in this zip file")
    metadata = find_metadata(files)
    left_out = sorted(set(files) - {*names, metadata})
    if not metadata:
        return LabelledFiles(root, names, left_out=left_out)
    (data,) = read_files(root, [metadata], lambda data, _: data)
    return replace(with_metadata(root, names, data, metadata.removesuffix(METADATA)), left_out=left_out)


def parts_of(name: str) -> tuple[str, ...]:
    """The folders and the file of a name inside a zip file, which on Windows may have been written with backslashes."""
    return PurePosixPath(name.replace("\\", "/")).parts


def find_metadata(names: Sequence[str]) -> str:
    """The name of dataset.json at the top or in the one folder that holds everything; empty where there is none."""
    if METADATA in names:
        return METADATA
    tops = {parts_of(name)[:1] for name in names}
    return next((name for name in names if len(tops) == 1 and parts_of(name)[1:] == (METADATA,)), "")


def with_metadata(root: Path, files: Sequence[str], data: bytes, prefix: str = "") -> LabelledFiles:
    """The files with the labels of a dataset.json, whose text is data. prefix: of all files' names, not of those in data."""
    if not files:
        raise UserError(f"{root}: no images ({', '.join(PICTURES)}) beside {METADATA}")
    class_of = read_metadata(root, data)
    if class_of is None:
        return LabelledFiles(root, files)
    names = [plain(name).removeprefix(plain(prefix)) for name in files]
    here = set(names)
    for missing, words in (
        ([name for name in class_of if name not in here], "names {} files that are absent, first {}"),
        ([name for name in names if name not in class_of], "leaves out {} images, first {}"),
    ):
        if missing:
            raise UserError(f"{root}: {METADATA} {words.format(len(missing), missing[0])}")
    classes = np.array([class_of[name] for name in names], np.int64)
    return LabelledFiles(root, files, classes + 1, tuple(map(str, range(classes.max() + 1))))


def read_metadata(root: Path, data: bytes) -> dict[str, int] | None:
    """File -> class, from 0, as a dataset.json says; None where it says that there are none."""
    try:
        metadata = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{root}: {METADATA} is malformed JSON ({error})") from error
    labels = metadata.get("labels", False) if isinstance(metadata, dict) else False
    if labels is None:
        return None
    pairs = list(labels.items()) if isinstance(labels, Mapping) else labels
    if not isinstance(pairs, list) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
    ):
        raise UserError(f'{root}: {METADATA} is not {{"labels": [[file, class], ...]}}, and not {{"labels": null}} either')
    found: dict[str, int] = {}
    for file, label in pairs:
        if type(label) is not int or not 0 <= label < MOST_CLASSES:
            expected = f"expected a whole number from 0 to {MOST_CLASSES - 1}"
            raise UserError(f"{root}: {METADATA} gives {file} the class {label!r}, {expected}")
        if found.setdefault(plain(file), label) != label:
            raise UserError(f"{root}: {METADATA} gives {file} two classes, {found[plain(file)]} and {label}")
    return found


def plain(name: str) -> str:
    """A name inside a zip file with slashes and composed letters, whichever system wrote it."""
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")
