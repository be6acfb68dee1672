"""Classes as users name them, as samples are made for them, and as a table beside the samples lists them."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from src.common.cli import UserError
from src.common.files import write_whole
from src.common.images import contact_sheet, read_picture

LABELS = "labels.csv"  # beside folders of samples: the class of each


def read_classes(words: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """The labels that words such as `cat 3` ask for, of the classes 1, 2 ... of these names; None for `all`, [0] for `none`.

    Raises UserError for another word, naming the valid ones, and for any but `all` where there are no classes.
    """
    if list(words) == ["all"]:
        return None
    if not names:
        raise UserError(f"--classes {' '.join(words)}: the model was trained without classes")
    if list(words) == ["none"]:
        return [0]
    by_label = {str(label): label for label in range(1, len(names) + 1)}
    labels = {**by_label, **{name: label for label, name in enumerate(names, start=1)}}  # a name wins over a number
    if unknown := next((word for word in words if word not in labels), None):
        raise UserError(
            f"--classes {unknown}: no such class; expected all, none, or of {', '.join(names)}, or labels 1 to {len(names)}"
        )
    return [labels[word] for word in words]


def labels_in_turn(
    model: torch.nn.Module, first: int, count: int, classes: Sequence[int] | None = None
) -> dict[str, torch.Tensor]:
    """The labels of samples first .. first + count - 1 as an argument of sample: {"labels": int64 (count,)}.

    Sample i has the label classes[i % len(classes)], whatever the batch; by default each of the model's classes in turn. {} for
    a model without classes.
    """
    num_classes = getattr(model, "num_classes", 0)
    if not num_classes:
        return {}
    labels = torch.tensor(range(1, num_classes + 1) if classes is None else list(classes), device=model.device)
    return {"labels": labels[torch.arange(first, first + count, device=model.device) % len(labels)]}


def labels_table(samples: Sequence[str], labels: Sequence[int], names: Sequence[str]) -> str:
    """A table of the samples' file names, their labels and classes, as CSV; of label 0 the class is empty."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["file", "label", "class"])
    rows.writerows([sample, label, names[label - 1] if label else ""] for sample, label in zip(samples, labels, strict=True))
    return text.getvalue()


def write_labels(table: str, place: Path, others: Sequence[Path]) -> None:
    """Write the table as labels.csv beside folders of samples. others: those of the folders that are not sampled now.

    Raises UserError where there are some, and the table beside them is another.
    """
    file = place / LABELS
    if others and file.is_file() and file.read_text(encoding="utf-8") != table:
        what = "whose images are of other classes or of another number"
        raise UserError(f"{file} is of {others[0].name} too, {what}: give another --save_dir")
    with write_whole(file) as partial:
        partial.write_text(table, encoding="utf-8")


def draw_by_class(
    folder: Path, files: Sequence[str], labels: Sequence[int], names: Sequence[str], sheet: Path, columns: int = 10
) -> None:
    """Draw the first images of each class in a folder of samples, a row for each, as the picture `sheet`."""
    rows, captions = [], []
    for label in sorted(set(labels)):
        chosen = [file for file, own in zip(files, labels, strict=True) if own == label][:columns]
        rows.append(np.stack([np.asarray(read_picture(folder / file, file)).transpose(2, 0, 1) for file in chosen]))
        name = names[label - 1] if label else "no class"
        captions.append(name if name.isascii() else f"class {label}")  # Pillow's own font has no other letters
    with write_whole(sheet) as partial:
        contact_sheet(rows, captions).save(partial, format="png")
