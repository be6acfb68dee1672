"""What a run of train.py learns from: a challenge's training images, or pairs of noise and image, and images to score it on."""

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from src.challenges.shared.challenge import Challenge, get_challenge
from src.common.cli import UserError, number
from src.common.options import Options, in_turn
from src.datasets.pairs import describe_pairs, load_labelled_pairs

DEVELOPMENT_SEED = 2025  # one development split for all runs, whatever their seed


@dataclass
class DataOptions(Options):
    """Which data a run learns from. Every field is a flag of train.py."""

    data_root: str = field(default="", metadata={"help": "folder or zip file of the data"})
    class_conditional: bool = field(
        default=False,
        metadata={"help": "learn the classes of data that have some: samples can then be asked for by class, and guided"},
    )
    max_per_class: int = field(
        default=0, metadata={"help": "take at most so many training images of each class, the first ones; 0: all", "minimum": 0}
    )
    pairs: str | None = field(
        default=None,
        metadata={
            "help": "train on these pairs of noise and image, made by python -m src.datasets.pairs, but for a SHARE, the most "
            "distant ones; the challenge's own data then give the development images alone",
            "metavar": ("FOLDER", "SHARE"),
            "words": in_turn(pairs=str, drop_longest=number(float, 0)),
        },
    )
    drop_longest: float = field(default=0.0, metadata={"minimum": 0, "below": 1, "of": "pairs"})

    def load(self, challenge: Challenge, dev_images: int) -> "TrainingData":
        """Read what these options name, and set dev_images of the challenge's training images aside.

        Raises UserError where pairs are of another resolution than the development images, nothing is left to train on, or
        classes are asked of data that have none.
        """
        if self.pairs:
            images, seeds, labels, classes = load_labelled_pairs(self.pairs, self.drop_longest)
            if self.class_conditional and labels is None:
                raise UserError(f"--class_conditional: the teacher of --pairs {self.pairs} has no classes")
            development = images[:0]
            if dev_images:
                real, _ = challenge.load("train", self.data_root)
                if real.shape[1:] != images.shape[1:]:
                    raise UserError(
                        f"--pairs {self.pairs}: images of shape {images.shape[1:]}; those of --dev_images are {real.shape[1:]}"
                    )
                development = real[development_split(len(real), dev_images)[1]]
            data = TrainingData(images, development, seeds)
        else:
            images, labels = challenge.load("train", self.data_root)
            if (self.class_conditional or self.max_per_class) and labels is None:
                flag = "--class_conditional" if self.class_conditional else "--max_per_class"
                raise UserError(f"{flag}: the data of challenge {challenge.name} have no classes")
            if self.max_per_class:
                kept = first_of_each(labels, self.max_per_class)
                images, labels = images[kept], labels[kept]
            rows, aside = development_split(len(images), dev_images)
            data = TrainingData(images[rows] if dev_images else images, images[aside])
            if self.class_conditional:
                labels, classes = labels[rows], challenge.class_names(self.data_root)
        if self.class_conditional:
            data.labels, data.classes = labels, classes
        return data

    def entries(self) -> dict[str, Any]:
        """What training_config.json says of them; a model's classes stand in model_config.json."""
        names = ("data_root", "max_per_class", "pairs", "drop_longest")
        trained_on = describe_pairs(self.pairs, self.drop_longest) if self.pairs else None
        return {**{name: getattr(self, name) for name in names}, "trained_on": trained_on}


@dataclass
class TrainingData:
    """What a run learns from, and the images (N, ...) set aside to score it: development.

    noise_seeds: of the noise that belongs to each image, or None. labels: of each image, or None; classes: their names.
    """

    images: np.ndarray
    development: np.ndarray
    noise_seeds: np.ndarray | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        kind = "images" if self.noise_seeds is None else "pairs"
        return f"{len(self.images):,} {kind}" + (f" of {len(self.classes)} classes" if self.classes else "")

    def model_options(self, challenge: Challenge) -> dict[str, Any]:
        """The options of create_custom_model that follow from the challenge and these data."""
        return {
            **({} if challenge is get_challenge() else {"challenge": challenge.name}),
            **({"classes": list(self.classes)} if self.classes else {}),
            **({} if challenge.shape else {"sample_shape": list(self.images.shape[1:])}),
        }

    def crc32(self) -> int:
        """A checksum of what is learned from."""
        crc = 0
        for array in (self.images, self.noise_seeds, self.labels):
            crc = crc if array is None else zlib.crc32(np.ascontiguousarray(array), crc)
        return crc


def development_split(count: int, development: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide image numbers 0..count-1 at random into those to train on and `development` to score on, each in order.

    The division depends on the two numbers alone, and a larger development split contains a smaller one.
    Raises UserError unless something is left to train on.
    """
    if development >= count:
        raise UserError(f"--dev_images {development} leaves nothing to train on: there are {count} training images")
    order = np.random.default_rng(DEVELOPMENT_SEED).permutation(count)
    return np.sort(order[development:]), np.sort(order[:development])


def first_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """The rows of the first `count` images of each class, in order: labels (N,) -> int64 (M,)."""
    rows = [np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]
    return np.sort(np.concatenate(rows))
