"""Which checkpoints there are, and a model with what the page has to know of it."""

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from custom_model import create_custom_model
from src.challenges import CHALLENGES, DEFAULT, Challenge, find_challenge, get_challenge
from src.challenges.shared.images import ImageChallenge
from src.common.checkpoints import MODEL_CONFIG, load_model, read_model_config
from src.common.cli import UserError
from src.common.devices import precision_name, resolve_device, resolve_precision
from src.common.distilled import METHODS, refusal
from src.common.files import load_torch
from src.runs.folder import BEST, NOT_SAVED, Run, checkpoint_of, runs_in, saved_checkpoint

PLANE = (2,)  # the shape of a sample that is a point
alone = threading.Lock()  # two visitors share a model, and with it the count of its calls and the global generators


@dataclass(frozen=True)
class Source:
    """A checkpoint that the page offers, by the name that it is listed by."""

    name: str
    checkpoint: Path
    method: str = ""  # of its model, as challenge is; empty where its configuration cannot be read
    challenge: str = ""
    has_classes: bool = False

    @property
    def is_on_the_plane(self) -> bool:
        """Whether its samples are points in the plane."""
        return self.challenge in CHALLENGES.names() and get_challenge(self.challenge).shape == PLANE

    @property
    def can_be_distilled(self) -> bool:
        """Whether its samples are images, of classes that can be asked for, and its method is one that can be distilled."""
        likely = self.has_classes and self.method in METHODS and self.challenge in CHALLENGES.names()
        return likely and isinstance(get_challenge(self.challenge), ImageChallenge)


def shipped(folder: Path) -> list[Source]:
    """The models of checkpoints/: those of its folders, in the order of their names, and the one that is handed in."""
    files = [file for file in sorted(folder.glob(f"*/{BEST}")) if (file.parent / MODEL_CONFIG).is_file()]
    return [describe_source(file, folder) for file in (*files, folder / BEST) if file.is_file()]


def trained(folder: Path) -> list[Source]:
    """The runs of results/, the one that was saved last first; after them those that were not saved yet."""
    files = [checkpoint_of(run.folder) for run in runs_in(folder)]
    return [describe_source(file, folder) for file in sorted(files, key=lambda file: -version(file)[0])]


def describe_source(checkpoint: Path, folder: Path) -> Source:
    """The source of a checkpoint in a folder, by the name of which, and of its own place there, it is listed."""
    place = checkpoint.parent.relative_to(folder.parent)
    if not checkpoint.is_file():
        return Source(f"{place} ({NOT_SAVED})", checkpoint)
    try:
        config = read_model_config(checkpoint) or {}
    except UserError:  # the page says what is wrong when it is chosen
        return Source(f"{place} (damaged)", checkpoint)
    method, challenge = str(config.get("method", "custom")), str(config.get("challenge", DEFAULT))
    return Source(f"{place} ({method}, {challenge})", checkpoint, method, challenge, bool(config.get("classes")))


def checkpoint_at(path: Path) -> Path:
    """The checkpoint that a typed path stands for: one, or the folder that it lies in.

    Raises UserError for a folder of several runs, naming one of them.
    """
    checkpoint = checkpoint_of(path)
    if path.is_dir() and not checkpoint.is_file() and (runs := [run for run in runs_in(path) if run.folder != path]):
        names = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
        raise UserError(f"{path} is a folder of {names}: type in the path of a run, such as {runs[0].folder}")
    return checkpoint


def version(checkpoint: Path) -> tuple[int, ...]:
    """When a checkpoint and its configuration were last written, in ns, 0 for an absent one: to know a kept model by."""
    files = (checkpoint, checkpoint.parent / MODEL_CONFIG)
    return tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model, ready to be sampled."""

    model: Any
    challenge: Challenge
    shape: tuple[int, ...]  # of one sample
    classes: tuple[str, ...]  # the names of labels 1, 2 ...; none for a model without classes
    checkpoint: Path
    dtype: torch.dtype  # of its network's matrix products
    step: int | None  # of training, after which it was saved; None where the file does not say it

    @property
    def run(self) -> Run:
        """The run that it lies in; of a shipped model one that does not exist."""
        return Run.of(self.checkpoint)

    @property
    def takes_guidance(self) -> bool:
        return bool(self.classes) and getattr(self.model, "takes_guidance", False)

    @property
    def makes_images(self) -> bool:
        return isinstance(self.challenge, ImageChallenge)

    @property
    def data_root(self) -> str:
        """Where the data are that it was trained on, as far as its run says it: else where they are by default."""
        settings = self.run.training if self.run.exists else {}
        return settings.get("data_root") or self.challenge.default_root

    @cached_property
    def refused(self) -> str:
        """Why score distillation cannot be asked of it, in one line; empty where it can."""
        if not self.makes_images:
            return f"samples of challenge {self.challenge.name} are no images"
        with alone:
            return refusal(self.model, self.classes, self.shape)

    def __str__(self) -> str:
        size = sum(parameter.numel() for parameter in self.model.network.parameters())
        where = f"on {self.model.device} in {precision_name(self.dtype)}"
        return f"{type(self.model).__name__}, challenge {self.challenge.name}, {size:,} parameters, {where}"


def load(checkpoint: Path, device_name: str = "cuda") -> Loaded:
    """Build the model of a checkpoint, on this device if there is one.

    Raises UserError where the checkpoint or its configuration is absent, damaged, or of another model.
    """
    checkpoint = saved_checkpoint(checkpoint)
    challenge, device = find_challenge(None, checkpoint), resolve_device(device_name)
    model = load_model(checkpoint, create_custom_model, device).eval().to(memory_format=torch.channels_last)
    classes = tuple((read_model_config(checkpoint) or {}).get("classes", ()))
    dtype, step = resolve_precision("auto", device), load_torch(checkpoint).get("step")
    return Loaded(model, challenge, challenge.known_shape, classes, checkpoint, dtype, step)
