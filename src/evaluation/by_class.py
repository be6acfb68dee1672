"""Generated images by class: which class each was asked for, whether it shows it, and the numbers of each class alone."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.classes import LABELS
from src.common.cli import UserError
from src.common.files import read_text
from src.common.images import is_hidden, list_pictures
from src.evaluation.classifier import Classifier, predict
from src.evaluation.confidence import random_halves, share_with_interval, with_interval
from src.evaluation.features import picture_files, read_pictures
from src.evaluation.metrics import MIN_IMAGES, frechet
from src.evaluation.prdc import subset_prdc
from src.evaluation.weights import parameters_sha256

COLUMNS = ["file", "label", "class"]  # of labels.csv, as sampling.py writes it
Numbers = dict[str, Any]


# ------------------------------------------------------------------------------------------------------------ labels


def read_labelled(folder: Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The images of a folder, uint8 (N, 3, H, W), and the labels that they were asked for, int64 (N,), 0 for no class.

    Images directly in the folder are in the order of their names, and labels.csv in it or beside it has their labels. A folder
    without images has a sub-folder for each class, by its name; their images follow one another in the order of the classes.
    names: of the classes 1, 2 ... Raises UserError where images or labels are absent, damaged or do not fit each other.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)) if folder.is_dir() else []
    if not folders or list_pictures(folder)[0]:
        files = picture_files(folder)
        images = read_pictures(files, folder)
        return images, read_labels(labels_file(folder), folder, [file.name for file in files], names)
    for path in folders:
        if path.name not in names:
            raise UserError(f"{folder}: {path.name} is no class; expected images, or sub-folders named {list_of(names)}")
    of_class = {label: picture_files(folder / name) for label, name in enumerate(names, start=1) if folder / name in folders}
    labels = np.repeat(list(of_class), [len(files) for files in of_class.values()])
    return read_pictures([file for files in of_class.values() for file in files], folder), labels.astype(np.int64)


def labels_file(folder: Path) -> Path:
    """The labels.csv in a folder, or else beside it. Raises UserError where there is none."""
    for file in (folder / LABELS, folder.resolve().parent / LABELS):
        if file.is_file():
            return file
    raise UserError(
        f"{folder}: no {LABELS} in it or beside it, and no sub-folders named by class; sampling.py writes the file for a model "
        "with classes"
    )


def read_labels(file: Path, folder: Path, pictures: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """The labels that labels.csv gives to these pictures of a folder, int64 (N,): 1, 2 ... by the classes' names, 0 for none.

    Raises UserError, naming the line, where the file is damaged, has a label that is none, or does not fit the pictures.
    """
    try:
        rows = list(csv.reader(io.StringIO(read_text(file)), strict=True))
    except csv.Error as error:
        raise UserError(f"{file}: damaged ({error})") from error
    if not rows or rows[0] != COLUMNS:
        raise UserError(f"{file}: its first line is {','.join(rows[0]) if rows else ''!r}, expected {','.join(COLUMNS)}")
    labels: dict[str, int] = {}
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(COLUMNS):
            raise UserError(f"{file}, line {line}: {len(row)} values, expected {','.join(COLUMNS)}")
        if row[0] in labels:
            raise UserError(f"{file}, line {line}: {row[0]} stands there twice")
        labels[row[0]] = read_label(row[1], row[2], names, f"{file}, line {line}")
    fits = f"sample anew, so that {file} is of {folder}"
    if len(labels) != len(pictures):
        raise UserError(f"{file} has {len(labels)} images, {folder} holds {len(pictures)}; {fits}")
    if missing := next((name for name in pictures if name not in labels), None):
        raise UserError(f"{file} does not have {missing} of {folder}; {fits}")
    if not any(labels.values()):
        raise UserError(f"{file}: no image of {folder} was asked for a class; sample with --classes")
    return np.array([labels[name] for name in pictures], dtype=np.int64)


def read_label(label: str, name: str, names: Sequence[str], where: str) -> int:
    """A label of labels.csv as a number. Raises UserError for another one than 0 (of no class) to the number of classes, or
    one that is not of the class with this name."""
    number = int(label) if label.isdecimal() and len(label) < 10 else -1
    if not 0 <= number <= len(names):
        raise UserError(f"{where}: label {label[:20]!r}, expected 1 to {len(names)}, or 0 for no class")
    expected = names[number - 1] if number else ""
    if name != expected:
        raise UserError(f"{where}: label {number} is class {expected!r}, not {name!r}; the file is of other classes")
    return number


def list_of(names: Sequence[str], most: int = 10) -> str:
    """The first of these names, with commas."""
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


# ----------------------------------------------------------------------------------------------------------- numbers


@dataclass
class ClassJudge:
    """What is measured by class: accuracies by a classifier, and the numbers of each class against real images of it.

    Args:
        classifier: of these classes.
        names: of the classes 1, 2 ...
        real: validation images, uint8 (R, 3, H, W), of which the classifier's accuracy is said beside.
        real_labels: of these, int64 (R,).
        reference_labels: of what distances are measured against, int64 (M,); None where they are not known.
        source: what the classifier was trained on, for metrics.json.
    """

    classifier: Classifier
    names: Sequence[str]
    real: np.ndarray
    real_labels: np.ndarray
    reference_labels: np.ndarray | None
    source: str

    def __post_init__(self) -> None:
        self.real_hits = predict(self.classifier, self.real) == self.real_labels

    @property
    def network(self) -> dict[str, str]:
        """What metrics.json says of the classifier: where it is from, and the hash of its parameters."""
        state = {name: value.cpu() for name, value in self.classifier.state_dict().items()}
        return {"source": self.source, "sha256": parameters_sha256(state)}

    def accuracies(self, images: np.ndarray, labels: np.ndarray) -> Numbers:
        """The classifier's accuracy on images, uint8 (N, 3, H, W), of labels (N,), in all and by class, and on real ones.

        {"accuracy", "real_accuracy", "no_class", "classes": {name: {"label", "num_generated", "accuracy", "real_accuracy"}}}
        with accuracies as of share_with_interval, absent where there are no such images. Images with label 0 count for nothing
        but no_class, their number.
        """
        hits = predict(self.classifier, images) == labels
        classes = {}
        for label, name in enumerate(self.names, start=1):
            mine = labels == label
            own = {"accuracy": hits[mine], "real_accuracy": self.real_hits[self.real_labels == label]}
            classes[name] = {"label": label, "num_generated": int(mine.sum()), **shares(own)}
        own = {"accuracy": hits[labels > 0], "real_accuracy": self.real_hits}
        return {**shares(own), "no_class": int((labels == 0).sum()), "classes": classes}

    def left_out(self, labels: np.ndarray) -> dict[str, str]:
        """Name -> why, of the classes that have too few images for distances: fewer than MIN_IMAGES of labels or reference."""
        if self.reference_labels is None:
            return dict.fromkeys(self.names, "the reference is not the validation split, whose labels are known")
        found = {}
        for label, name in enumerate(self.names, start=1):
            counts = [int((each == label).sum()) for each in (labels, self.reference_labels)]
            if min(counts) < MIN_IMAGES:
                found[name] = f"{counts[0]} generated and {counts[1]} reference images, expected at least {MIN_IMAGES} of both"
        return found

    def distances(
        self, generated: np.ndarray, reference: np.ndarray, labels: np.ndarray, halves: int, seed: int
    ) -> dict[str, Numbers]:
        """Name -> {"fid", "recall", "num_reference"} of each class alone, of Inception features (N, D) and (M, D).

        labels: of generated. halves: random halves for the intervals, 0 for none. Classes of left_out are not there.
        """
        skipped, found = self.left_out(labels), {}
        for label, name in enumerate(self.names, start=1):
            if name not in skipped:
                mine, real = generated[labels == label], reference[self.reference_labels == label]
                drawn = random_halves(len(mine), halves, seed)
                recall = subset_prdc(mine, real, [np.arange(len(mine)), *drawn])["recall"]
                found[name] = {
                    "fid": frechet(mine, real, drawn),
                    "recall": with_interval(recall, len(mine), (0, 1)),
                    "num_reference": len(real),
                }
        return found


def shares(hits: dict[str, np.ndarray]) -> Numbers:
    """share_with_interval of each, but for those without images."""
    return {name: share_with_interval(each) for name, each in hits.items() if len(each)}
