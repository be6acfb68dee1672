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
    """What a course asks for: a metric below a bound at one number of network calls (NFE)."""

    metric: str
    below: float
    nfe: int  # 0: any
    who: str  # whose bound it is
    root: str = ""  # of which data (--data_root), where the challenge has several
    method: str = ""  # by which method, where that is prescribed

    def passes(self, value: float) -> bool:
        return value < self.below

    def __str__(self) -> str:
        task = " on ".join(filter(None, (self.method, self.root)))
        parts = filter(None, (task, f"NFE {self.nfe}" if self.nfe else "any NFE"))
        return f"{', '.join(parts)}: {self.metric} under {self.below:g} ({self.who})"


@dataclass(frozen=True)
class Published:
    """A row of the leaderboard that is no team: published figures, or what real data reach. scores: NFE -> the first metric."""

    name: str
    note: str
    scores: Mapping[int, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Challenge(ABC):
    """A task with everything fixed but the method. Its subclasses say what samples are: ImageChallenge, PointChallenge."""

    name: str
    about: str  # one line for lists
    shape: tuple[int, ...]  # of one sample: (3, H, W) of an image; empty where the data decide on it (see with_shape)
    # (split, root) -> samples (N, *shape), uint8 or floating-point in the network's units, and labels (N,), 1, 2 ..., or None.
    # split is "train" or "val". Raises UserError where root has no such data.
    load: Load
    nfe: tuple[int, ...]  # the numbers of network calls that are sampled
    num_samples: int  # that are made for each of them
    metrics: Mapping[str, str]  # name -> what it is called in print; the first one ranks. Less is better
    default_root: str = ""  # where the data are if --data_root does not say it
    network: Callable[..., nn.Module] = UNet  # takes use_additional_condition, and the options that train.py shows as flags
    network_defaults: Mapping[str, Any] = field(default_factory=dict)  # where they differ from the network's own
    network_options: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: UNET_OPTIONS)  # metadata as of Options
    training: Mapping[str, Any] = field(default_factory=dict)  # defaults of train.py's flags, where they differ
    presets: Mapping[str, Preset] = field(default_factory=dict)  # --preset -> flags, where the kit's own do not suit
    method_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # method -> defaults for these data
    classes: tuple[str, ...] = ()  # the names of the labels 1, 2 ...; empty where samples have none
    class_conditional: bool = False  # whether models learn the classes where train.py's flag does not say it
    max_per_class: int = 0  # training images of each class where the flag does not say it; 0: all
    guidance_scales: tuple[float, ...] = (0.0,)  # that are sampled, of models with classes; 0 is no guidance
    marks: tuple[Mark, ...] = ()  # what a course asks for
    published: tuple[Published, ...] = ()  # rows of the leaderboard for comparison

    graded = False  # whether submissions are packed, checked and graded
    hands_in_images = False  # whether a folder of samples is handed in, and not the model
    hands_in_code = False  # whether the code goes along with them: hand_in says which samples
    has_own_feature_network = False  # whether a network of the course's own can measure it: load_own_feature_network
    batch_size, cpu_batch_size = 32, CPU_BATCH_SIZE  # samples that sampling.py makes at a time, and at most on a CPU
    preview_samples = 8  # in each row of a preview

    @property
    def metric(self) -> str:
        """The metric that ranks."""
        return next(iter(self.metrics))

    def calls_of(self, model: nn.Module | type[nn.Module]) -> tuple[int, ...]:
        """The default numbers of network calls of this model or class: those of nfe, or the few of a model made for few."""
        most = FEW_CALLS if getattr(model, "few_calls", False) else max(self.nfe)
        return tuple(nfe for nfe in self.nfe if nfe <= most) or self.nfe

    def with_shape(self, shape: Sequence[int] | None) -> "Challenge":
        """This challenge with samples of this shape, where the data decide on it. Raises ValueError for what is no shape."""
        if self.shape or shape is None:
            return self
        if not isinstance(shape, (list, tuple)) or not shape or not all(type(size) is int and size > 0 for size in shape):
            raise ValueError(f"expected sample_shape as a list of positive whole numbers, got {shape!r}")
        return replace(self, shape=tuple(shape))

    @property
    def known_shape(self) -> tuple[int, ...]:
        """The shape of one sample. Raises UserError where the data decide on it and no model's configuration says it."""
        if not self.shape:
            raise UserError(
                f"the samples of challenge {self.name} have the shape of the data, and there is no model_config.json with "
                "sample_shape that says it: train.py writes one beside the checkpoint"
            )
        return self.shape

    def network_fields(self) -> list[Field]:
        """The options of the network with their defaults and metadata, as fields of a dataclass."""
        options = []
        for name, parameter in inspect.signature(self.network).parameters.items():
            if name not in (CONDITION, NUM_CLASSES):
                default = self.network_defaults.get(name, parameter.default)
                options.append(field(default=default, metadata=self.network_options.get(name)))
                options[-1].name = name
        return options

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
    def picture(self, rows: Sequence[np.ndarray], captions: Sequence[str]) -> Image.Image:
        """A picture of rows of samples, as to_array gives them, each with a caption."""

    def reference_dir(self) -> str:
        """Where the reference lies if --reference_dir does not say it; empty where it needs no folder."""
        return ""

    @abstractmethod
    def read_reference(self, root: str | Path, folder: str | Path) -> np.ndarray:
        """What samples are measured against: (M, *shape), from a folder, or from the validation split of the data at root."""

    def load_feature_network(self, device: torch.device, file: str | None = None) -> Any:
        """The network whose features `measure` compares, its weights from a file where given; None where it needs none."""
        return None

    @abstractmethod
    def measure(
        self,
        samples: np.ndarray,
        reference: np.ndarray,
        feature_network: Any,
        *,
        metrics: Sequence[str] | None = None,
        batch_size: int = 64,
        processes: Processes | None = None,
        verbose: bool = False,
    ) -> dict[str, float]:
        """These metrics, or all, of samples (N, *shape) against the reference (M, *shape), by name.

        processes: share the work; every one of them gets the result. verbose: show progress bars.
        """

    def warnings(self, samples: np.ndarray, reference: np.ndarray | None) -> list[str]:
        """What makes scores of samples (N, *shape) incomparable. reference: None where only its statistics are known."""
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
        """What scores a model in training by the metric that ranks, against samples (N, *shape) that were set aside."""
        from src.evaluation.development_score import DevelopmentScore

        batch_size = min(batch_size, self.cpu_batch_size if device.type == "cpu" else GPU_BATCH_SIZE)
        network, settings = self.load_feature_network(device), {"metrics": [self.metric], "batch_size": min(batch_size, 64)}

        def measure(samples: np.ndarray, reference: np.ndarray) -> float:
            return self.measure(samples, reference, network, **settings, processes=processes)[self.metric]

        name = self.metric.partition("_")[0]
        return DevelopmentScore(images, nfe or self.nfe, self.to_array, measure, name, batch_size, processes=processes)


CHALLENGES: Registry[Challenge] = Registry("challenge")


def register(challenge: Challenge) -> Challenge:
    """Make a challenge known by its name. Raises ValueError if another one has it."""
    CHALLENGES.add(challenge.name, challenge)
    return challenge


def get_challenge(name: str | None = None) -> Challenge:
    """The challenge of this name, or the default one. Raises ValueError naming all of them if there is none."""
    return CHALLENGES.get(name or DEFAULT)


def add_challenge_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup, default: str | None = DEFAULT) -> None:
    """Add --challenge, also known as --data. A default of None stands for that of the run."""
    text = "the task: data, network, what is sampled and measured" + ("" if default else "; None: that of the run")
    parser.add_argument("--challenge", "--data", choices=CHALLENGES.names(), default=default, help=text)


def find_challenge(name: str | None, checkpoint_path: str | Path, config_path: str | Path | None = None) -> Challenge:
    """The challenge of this name, or else that of a checkpoint's model_config.json, with its shape, or else the default one.

    Raises UserError where the file is malformed or names an unknown challenge.
    """
    try:
        fixed = name and get_challenge(name).shape
        config = {} if fixed else read_model_config(checkpoint_path, config_path) or {}
        return get_challenge(name or config.get("challenge")).with_shape(config.get("sample_shape"))
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
