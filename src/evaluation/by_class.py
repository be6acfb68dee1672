"""Generated images by class: which class each was asked for, whether it shows it, and the numbers of each class alone."""

import csv
import io
from collections.abc import Mapping, Sequence
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


def read_labelled(folder: Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The images of a folder, uint8 (N, 3, H, W), and the labels that they were asked for, int64 (N,), 0 for no class.

    Images directly in the folder are in the order of their names, and labels.csv in it or beside it has their labels. A folder
    without images has a sub-folder for each class, by its name; their images follow one another in the order of the classes.
    names: of the classes 1, 2 ... Raises UserError where images or labels are absent, damaged or do not fit each other.
    """
    folders = (
        sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)) if folder.is_dir() else []
    )
    if not folders or list_pictures(folder)[0]:
        files = picture_files(folder)
        return read_pictures(files, folder), read_labels(labels_file(folder), folder, [file.name for file in files], names)
    if strange := next((name for name in folders if name not in names), None):
        expected = ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
        raise UserError(f"{folder}: {strange} is no class; expected images, or sub-folders named {expected}")
    of_class = {label: picture_files(folder / name) for label, name in enumerate(names, start=1) if name in folders}
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
    classes = {str(label): name for label, name in enumerate(["", *names])}
    labels: dict[str, int] = {}
    for line, row in enumerate(rows[1:], start=2):
        where = f"{file}, line {line}"
        if len(row) != len(COLUMNS):
            raise UserError(f"{where}: {len(row)} values, expected {','.join(COLUMNS)}")
        picture, label, name = row
        if picture in labels:
            raise UserError(f"{where}: {picture} stands there twice")
        if label not in classes:
            raise UserError(f"{where}: label {label[:20]!r}, expected 1 to {len(names)}, or 0 for no class")
        if name != classes[label]:
            raise UserError(f"{where}: label {label} is class {classes[label]!r}, not {name!r}; the file is of other classes")
        labels[picture] = int(label)
    advice = f"sample anew, so that {file} is of {folder}"
    if len(labels) != len(pictures):
        raise UserError(f"{file} has {len(labels)} images, {folder} holds {len(pictures)}; {advice}")
    if missing := next((name for name in pictures if name not in labels), None):
        raise UserError(f"{file} does not have {missing} of {folder}; {advice}")
    if not any(labels.values()):
        raise UserError(f"{file}: no image of {folder} was asked for a class; sample with --classes")
    return np.array([labels[name] for name in pictures], dtype=np.int64)


@dataclass
class ByClass:
    """What is measured by class: accuracies by a classifier, and the numbers of each class against real images of it."""

    classifier: Classifier
    names: Sequence[str]  # of the classes 1, 2 ...
    real: np.ndarray  # validation images, uint8 (R, 3, H, W), of which the classifier's accuracy is said beside
    real_labels: np.ndarray  # of these, int64 (R,)
    reference_labels: np.ndarray | None  # of what distances are measured against, int64 (M,); None where they are not known
    source: str  # what the classifier was trained on, for metrics.json

    def __post_init__(self) -> None:
        self.real_hits = predict(self.classifier, self.real) == self.real_labels

    @property
    def network(self) -> dict[str, str]:
        """What metrics.json says of the classifier: where it is from, and the hash of its parameters."""
        state = {name: value.cpu() for name, value in self.classifier.state_dict().items()}
        return {"source": self.source, "sha256": parameters_sha256(state)}

    def measure(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        features: Mapping[str, tuple[np.ndarray, np.ndarray]],
        halves: int,
        seed: int,
    ) -> dict[str, Any]:
        """What metrics.json says by class of images, uint8 (N, 3, H, W), of labels (N,).

        features: mode -> Inception features of the images, (N, D), and of the reference, (M, D). halves: for the intervals,
        0 for none. Accuracies are absent where there are no such images. Images with label 0 count for no_class alone.
        """
        hits, classes, left_out = predict(self.classifier, images) == labels, {}, {}
        for label, name in enumerate(self.names, start=1):
            mine = labels == label
            own = {"accuracy": hits[mine], "real_accuracy": self.real_hits[self.real_labels == label]}
            classes[name] = {"label": label, "num_generated": int(mine.sum()), **_shares(own)}
            if self.reference_labels is None:
                left_out[name] = "the reference is not the validation split, whose labels are known"
                continue
            theirs = self.reference_labels == label
            if min(mine.sum(), theirs.sum()) < MIN_IMAGES:
                counts = f"{mine.sum()} generated and {theirs.sum()} reference images"
                left_out[name] = f"{counts}, expected at least {MIN_IMAGES} of both"
                continue
            for mode, (generated, reference) in features.items():
                classes[name][mode] = distances(generated[mine], reference[theirs], halves, seed)
        own = {"accuracy": hits[labels > 0], "real_accuracy": self.real_hits}
        return {**_shares(own), "no_class": int((labels == 0).sum()), "classes": classes, "left_out": left_out}


def distances(generated: np.ndarray, reference: np.ndarray, halves: int, seed: int) -> dict[str, Any]:
    """FID and recall of features (N, D) against (M, D), with intervals from this many halves."""
    rows = random_halves(len(generated), halves, seed)
    recall = subset_prdc(generated, reference, [np.arange(len(generated)), *rows])["recall"]
    return {
        "fid": frechet(generated, reference, rows),
        "recall": with_interval(recall, len(generated), (0, 1)),
        "num_reference": len(reference),
    }


def _shares(hits: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: share_with_interval(each) for name, each in hits.items() if len(each)}
