"""What a challenge is to the rest of the kit: its data, its fixed network, what is sampled, what is measured, what passes."""

import argparse
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from src.common.checkpoints import read_model_config
from src.common.cli import UserError
from src.common.options import Preset
from src.common.processes import Processes
from src.common.registry import Registry
from src.common.sampling import CPU_BATCH_SIZE
from src.network import UNet

if TYPE_CHECKING:
    from src.evaluation.development_score import DevelopmentScore

DEFAULT = "simpsons"
FEW_CALLS = 4  # the most network calls per sample that are few
GPU_BATCH_SIZE = 250  # samples at a time while a model is scored in training
CONDITION = "use_additional_condition"  # of every network: decided by the method, no option of the challenge
NUM_CLASSES = "num_classes"  # of networks that take labels: decided by the data
UNET_OPTIONS = {
    "ch": {"help": "channels of the U-Net's first level", "minimum": 1},
    "ch_mult": {"help": "channels of each level, times ch", "minimum": 0, "empty": True},
    "attn": {"help": "levels with self-attention", "minimum": 0, "empty": True},
    "num_res_blocks": {"help": "blocks per level", "minimum": 1},
    "dropout": {"help": "in residual blocks", "minimum": 0},
}

Load = Callable[[str, str | Path], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True)
class Mark:
    """What a course asks for: a metric below a bound at one number of network calls (NFE).

    Args:
        nfe: 0 stands for any.
        who: whose bound it is.
        root: of which data (--data_root), where the challenge has several; otherwise empty.
        method: by which method, where that is prescribed; otherwise empty.
    """

    metric: str
    below: float
    nfe: int
    who: str
    root: str = ""
    method: str = ""

    def passes(self, value: float) -> bool:
        return value < self.below

    def __str__(self) -> str:
        about = " on ".join(filter(None, (self.method, self.root)))
        calls = f"NFE {self.nfe}" if self.nfe else "any NFE"
        return f"{about}{', ' if about else ''}{calls}: {self.metric} under {self.below:g} ({self.who})"


@dataclass(frozen=True)
class Published:
    """A row of the leaderboard that is no team: published figures, or what real data reach. scores: NFE -> the first metric."""

    name: str
    note: str
    scores: Mapping[int, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Challenge(ABC):
    """A task with everything fixed but the method. The base of ImageChallenge, and of challenges whose samples are no images.

    Args:
        shape: of one sample: (3, H, W) of an image; empty where the data decide on it (see with_shape).
        load: (split, root) -> samples (N, *shape) and labels (N,), 1, 2 ... by class, or None. split is "train" or "val";
            samples are uint8, or floating-point in the units of the network. Raises UserError where root has no such data.
        nfe: the numbers of network calls that are sampled.
        num_samples: how many samples are made for each of them.
        metrics: name -> what it is called in print; the first one ranks. Less is better.
        default_root: where the data are if --data_root does not say it.
        network: builds the fixed network; takes use_additional_condition, and the options that train.py shows as flags.
        network_defaults: of these options, where they differ from the network's own.
        network_options: option -> metadata as of a field of Options: help, minimum ...
        training: defaults of train.py's flags that differ from those of TrainingConfig.
        presets: train.py's --preset -> flags, where the kit's own of that name does not suit, or has none.
        method_options: method -> defaults of its options that differ for these data.
        classes: the names of the classes that labels 1, 2 ... stand for; empty where samples have no labels.
        class_conditional: whether models learn the classes if train.py is not told.
        max_per_class: of training images, at most so many of each class are taken if train.py is not told; 0: all.
        guidance_scales: that are sampled, of models with classes; 0 is no guidance.
        marks: what a course asks for.
        published: rows of the leaderboard for comparison.
    """

    name: str
    about: str
    shape: tuple[int, ...]
    load: Load
    nfe: tuple[int, ...]
    num_samples: int
    metrics: Mapping[str, str]
    default_root: str = ""
    network: Callable[..., nn.Module] = UNet
    network_defaults: Mapping[str, Any] = field(default_factory=dict)
    network_options: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: UNET_OPTIONS)
    training: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Preset] = field(default_factory=dict)
    method_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    class_conditional: bool = False
    max_per_class: int = 0
    guidance_scales: tuple[float, ...] = (0.0,)
    marks: tuple[Mark, ...] = ()
    published: tuple[Published, ...] = ()

    graded = False  # whether submissions are packed, checked and graded
    hands_in_images = False  # whether a folder of samples is handed in, and not the model
    hands_in_code = False  # whether the code goes along with them: hand_in says which samples
    takes_judge = False  # whether it can be measured by a network of the course's own: load_own_judge
    batch_size, cpu_batch_size = 32, CPU_BATCH_SIZE  # samples that sampling.py makes at a time, and at most on a CPU
    preview_samples = 8  # in each row of a preview

    @property
    def metric(self) -> str:
        """The metric that ranks."""
        return next(iter(self.metrics))

    @property
    def score_name(self) -> str:
        """The first metric in logs, before _nfeK: "fid"."""
        return self.metric.partition("_")[0]

    def calls_of(self, model: nn.Module | type[nn.Module]) -> tuple[int, ...]:
        """The numbers of network calls that this model, or models of this class, are sampled with where nobody says it.

        They are those of nfe; of a model that is made for few calls, those of nfe that are few, if there are any.
        """
        few = tuple(nfe for nfe in self.nfe if nfe <= FEW_CALLS) if getattr(model, "few_calls", False) else ()
        return few or self.nfe

    # -------------------------------------------------------------------------------------------------------- the shape

    def with_shape(self, shape: Sequence[int] | None) -> "Challenge":
        """This challenge with samples of this shape where the data decide on it, otherwise as it is; None: no data are known.

        Raises ValueError for what is no shape.
        """
        if self.shape or shape is None:
            return self
        if not isinstance(shape, (list, tuple)) or not shape or not all(type(size) is int and size > 0 for size in shape):
            raise ValueError(f"expected sample_shape as a list of positive whole numbers, got {shape!r}")
        return replace(self, shape=tuple(shape))

    @property
    def known_shape(self) -> tuple[int, ...]:
        """The shape of one sample. Raises UserError where the data decide on it and no model's configuration has told it."""
        if not self.shape:
            raise UserError(
                f"the samples of challenge {self.name} have the shape of the data, and there is no model_config.json with "
                "sample_shape that says it: train.py writes one beside the checkpoint"
            )
        return self.shape

    # ------------------------------------------------------------------------------------------------------ the network

    def network_fields(self) -> list[Field]:
        """The options of the network with their defaults and metadata, as fields of a dataclass."""
        fields = []
        for name, parameter in inspect.signature(self.network).parameters.items():
            if name not in (CONDITION, NUM_CLASSES):
                default = self.network_defaults.get(name, parameter.default)
                item = field(default=default, metadata=dict(self.network_options.get(name, {})))
                item.name = name
                fields.append(item)
        return fields

    def build_network(self, **options: Any) -> nn.Module:
        """The network with these options, and the challenge's defaults for all others."""
        return self.network(**{**self.network_defaults, **options})

    def check_network(self, network: nn.Module) -> None:  # noqa: B027 - nothing is asked of most networks
        """Raise ValueError where the network cannot take samples of this shape."""

    @property
    def takes_classes(self) -> bool:
        """Whether the network can be built with classes."""
        return NUM_CLASSES in inspect.signature(self.network).parameters

    def class_names(self, root: str | Path) -> tuple[str, ...]:
        """The names of the classes of the data at root, of labels 1, 2 ...; empty where they have no labels."""
        return self.classes

    # --------------------------------------------------------------------------------------------- samples and their files

    @abstractmethod
    def to_array(self, samples: torch.Tensor) -> np.ndarray:
        """Samples (B, *shape) of a model as they are stored and measured."""

    @abstractmethod
    def write(self, samples: torch.Tensor, folder: Path, first: int = 0) -> None:
        """Write samples (B, *shape) of a model into a folder as it is handed in: they are number first, first + 1 ..."""

    @abstractmethod
    def read(self, folder: Path) -> np.ndarray:
        """The samples that write wrote, or the user's own: (N, *shape). Raises UserError for a folder without them."""

    @abstractmethod
    def check(self, folder: Path, count: int) -> None:
        """Raise UserError, naming the first fault, unless a folder holds `count` samples as they are handed in."""

    @abstractmethod
    def picture(self, rows: Sequence[np.ndarray], labels: Sequence[str]) -> Image.Image:
        """A picture of labelled rows of samples, as to_array gives them."""

    # ---------------------------------------------------------------------------------------------------------- measuring

    def reference_dir(self) -> str:
        """Where the reference lies if --reference_dir does not say it; empty where it needs no folder."""
        return ""

    @abstractmethod
    def read_reference(self, root: str | Path, folder: str | Path) -> np.ndarray:
        """What samples are measured against: (M, *shape), from a folder, or from the validation split of the data at root."""

    def load_judge(self, device: torch.device, file: str | None = None) -> Any:
        """What `measure` needs beside arrays, such as a feature network; None where it needs nothing."""
        return None

    @abstractmethod
    def measure(
        self,
        samples: np.ndarray,
        reference: np.ndarray,
        judge: Any,
        *,
        metrics: Sequence[str] | None = None,
        batch_size: int = 64,
        processes: Processes | None = None,
        verbose: bool = False,
    ) -> dict[str, float]:
        """The metrics of samples (N, *shape) against the reference (M, *shape), by name; those asked for, or all.

        Args:
            judge: what load_judge gave.
            processes: share the work; every one of them gets the result.
            verbose: show progress bars.
        """

    def warnings(self, samples: np.ndarray, reference: np.ndarray | None) -> list[str]:
        """What makes scores of these samples (N, *shape) against the reference (M, *shape) incomparable with others'.

        reference: None where it is known by its statistics alone.
        """
        from src.evaluation.features import comparability_warnings

        return [] if reference is None else comparability_warnings(samples, reference)

    def evaluation(
        self,
        images: np.ndarray,
        device: torch.device,
        batch_size: int,
        processes: Processes | None = None,
        nfe: Sequence[int] = (),
    ) -> "DevelopmentScore":
        """What scores a model while it trains, by the metric that ranks, against samples (N, *shape) that were set aside.

        nfe: the numbers of network calls, by default the challenge's.
        """
        from src.evaluation.development_score import DevelopmentScore

        batch_size = min(batch_size, self.cpu_batch_size if device.type == "cpu" else GPU_BATCH_SIZE)
        judge, asked = self.load_judge(device), {"metrics": [self.metric], "batch_size": min(batch_size, 64)}

        def measure(samples: np.ndarray, reference: np.ndarray) -> float:
            return self.measure(samples, reference, judge, **asked, processes=processes)[self.metric]

        return DevelopmentScore(
            images, nfe or self.nfe, self.to_array, measure, self.score_name, batch_size=batch_size, processes=processes
        )


CHALLENGES: Registry[Challenge] = Registry("challenge")


def register(challenge: Challenge) -> Challenge:
    """Make a challenge known by its name. Raises ValueError if another one has it."""
    CHALLENGES.add(challenge.name, challenge)
    return challenge


def get_challenge(name: str | None = None) -> Challenge:
    """The challenge of this name, or the default one. Raises ValueError naming all of them if there is none."""
    return CHALLENGES.get(name or DEFAULT)


def add_challenge_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup, default: str | None = DEFAULT) -> None:
    """Add --challenge. A default of None stands for that of the run."""
    text = "the task: data, network, what is sampled and measured" + ("" if default else "; None: that of the run")
    parser.add_argument("--challenge", choices=CHALLENGES.names(), default=default, help=text)


def find_challenge(asked: str | None, checkpoint_path: str | Path, config_path: str | Path | None = None) -> Challenge:
    """The challenge asked for, or else the one that a checkpoint's model_config.json names, or else the default one.

    Where the data decide on the shape of its samples, it has that of the checkpoint's, if the file says it. Raises UserError
    where the file is malformed or names a challenge that is not known here.
    """
    try:
        fixed = bool(asked) and bool(get_challenge(asked).shape)
        config = (None if fixed else read_model_config(checkpoint_path, config_path)) or {}
        return get_challenge(asked or config.get("challenge")).with_shape(config.get("sample_shape"))
    except ValueError as error:
        raise UserError(f"the configuration of {checkpoint_path}: {error}") from error


def graded_challenge(name: str | None) -> Challenge:
    """The challenge of this name. Raises UserError where there is none, or where its submissions are not graded."""
    try:
        challenge = get_challenge(name)
    except ValueError as error:
        raise UserError(str(error)) from error
    if challenge.hands_in_images:
        raise UserError(
            f"challenge {challenge.name} takes a folder of images: sampling.py writes it, and "
            f"python -m src.submission check FOLDER --challenge {challenge.name} proves it"
        )
    if not challenge.graded:
        raise UserError(f"challenge {challenge.name} is for practice: what it makes is neither packed nor graded")
    return challenge
