"""How a run begins: in which folder, as a new one or going on with one that is there, and from the weights of another run."""

import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.common.checkpoints import load_model, plain_name, state_of, take_weights
from src.common.cli import UserError
from src.common.devices import precision_flag
from src.common.files import load_torch
from src.common.locks import describe_owner, owned, owner_of
from src.common.networks import takes_condition
from src.common.options import Options
from src.methods.shared.method import METHODS, Method
from src.runs.folder import Run, checkpoint_of
from src.training.config import TrainingConfig

# of training_config.json, beside training's own: flags that a continued run takes over
TAKEN_OVER = ("challenge", "data_root", "max_per_class", "pairs", "drop_longest")


@dataclass
class Place(Options):
    """Where a run lives. Every field is a flag of train.py."""

    save_dir: str = field(default="./results", metadata={"help": "the run's folder is made in here"})
    run_name: str | None = field(default=None, metadata={"help": "the run's folder; by default the time"})
    resume: str | None = field(
        default=None,
        metadata={
            "help": "continue the run in this folder, with its flags; where the training images have changed, it says so and "
            "goes on",
            "metavar": "RUN",
        },
    )
    auto_resume: bool = field(
        default=False, metadata={"help": "continue what the same command has begun in --save_dir, if it has"}
    )


@dataclass
class ModelChoice:
    """Which model is trained: the name of its method, options of create_custom_model, and the runs that it begins from."""

    name: str
    options: dict[str, Any]
    teacher: str | None
    init_from: str | None

    def __post_init__(self) -> None:
        if self.method.needs_teacher and not self.teacher:
            raise ValueError(f"--method {self.name} learns from a teacher: name its run with --teacher")

    @property
    def method(self) -> type[Method]:
        return METHODS.get(self.name)

    def build(
        self,
        create_model: Callable[..., Method],
        device: torch.device,
        shape: Sequence[int],
        of_the_data: dict[str, Any],
        say: Callable[[str], None] = print,
    ) -> tuple[Method, dict[str, Any]]:
        """The model, and the options that build it anew.

        of_the_data: the options that follow from challenge and data. shape: of one sample. say: takes a line about the teacher.
        Raises UserError where the options do not fit, or the runs that it begins from are not there or have another shape.
        """
        model_config = {"method": self.name, **of_the_data, **self.options}
        try:
            model = create_model(device, **model_config)
        except ValueError as error:
            raise UserError(str(error)) from error
        model_config["use_additional_condition"] = takes_condition(model.network)
        if self.teacher:
            say(give_teacher(model, Path(self.teacher), shape, create_model))
        if self.init_from:
            init_network(model.network, Path(self.init_from))
        return model, model_config


@dataclass
class Settings:
    """What a run is started with, and a continued run has to agree with.

    precision: as --precision. entries: those of training_config.json about the data and the runs that it begins from.
    """

    precision: str
    config: TrainingConfig
    model_config: dict[str, Any]
    entries: dict[str, Any]

    def differences(self, run: Run) -> list[str]:
        """How a run differs from these, in what a continued run cannot change."""
        there = saved_flags(run)
        mine = {**json.loads(json.dumps(self.model_config)), "challenge": self.entries["challenge"]}
        mine["class_conditional"] = bool(self.model_config.get("classes"))
        if self.precision != "auto":
            mine["precision"] = self.precision
        found = self.config.changes_from(there)
        found += [f"--{name} {there.get(name)} there, {value} here" for name, value in mine.items() if there.get(name) != value]
        before, now = run.training.get("trained_on"), self.entries["trained_on"]
        return found + ([f"trained on {before or 'images'} there, {now or 'images'} here (--pairs)"] if before != now else [])

    def changed_data(self, run: Run) -> str:
        """A warning where the data are not those that the run was begun with; empty where they are, or the run does not say."""
        before = {name: run.training.get(name) for name in ("num_training_images", "data_crc32")}
        if all(value in (None, self.entries[name]) for name, value in before.items()):
            return ""
        count, now = before["num_training_images"], self.entries["num_training_images"]
        what = "other training images than before" if count == now else f"{now:,} training images, and there were {count:,}"
        return f"warning: {run.folder}: here are {what}; it goes on with these, and ends elsewhere than it would have"


def saved_flags(run: Run) -> dict[str, Any]:
    """The flags of train.py that a run was started with."""
    names = {item.name for item in fields(TrainingConfig)} | {*TAKEN_OVER, "teacher"}
    training = {name: value for name, value in run.training.items() if name in names}
    training |= {"teacher": str(run.origin("teacher"))} if training.get("teacher") else {}
    training["class_conditional"] = bool(run.model.get("classes"))
    renamed = METHODS.get(run.model.get("method", "custom")).renamed_options
    model = {renamed.get(name, name): value for name, value in run.model.items()}
    return {**model, **training, "precision": precision_flag(run.training["precision"])}


@contextlib.contextmanager
def claim_run(place: Place, new_name: str, settings: Settings) -> Iterator[tuple[Path, bool]]:
    """Inside the block this process owns a run's folder; gives it, and whether to continue what it holds.

    new_name: of a new run that is given no name.

    Raises UserError where --resume names a run of other settings, a new run would overwrite one, or another process trains it.
    """
    save_dir = Path(place.save_dir)
    with contextlib.ExitStack() as stack:
        one_at_a_time = place.auto_resume and not place.resume
        with owned(save_dir, wait=True) if one_at_a_time else contextlib.nullcontext():
            folder, resumed = _choose_run(place, settings)
            if folder is None:
                folder = _own_new(save_dir / new_name, stack)
            else:
                stack.enter_context(owned(folder))
        if resumed and (warning := settings.changed_data(Run(folder))):
            print(warning)
        yield folder, resumed


def _own_new(folder: Path, stack: contextlib.ExitStack) -> Path:
    """Make and own this folder, or the one of the next number, where another run of the same second has it: RUN_2, RUN_3 ..."""
    for number in itertools.count(2):
        try:
            stack.enter_context(owned(folder, new=True))
            return folder
        except FileExistsError:
            folder = folder.with_name(f"{folder.name.partition('_')[0]}_{number}")


def _choose_run(place: Place, settings: Settings) -> tuple[Path | None, bool]:
    """The run's folder, None for a new one without a name, and whether to continue what it holds: see claim_run."""

    def refuse(run: Run, differences: list[str]) -> None:
        if differences:
            raise UserError(f"{run.folder} cannot be continued with other settings: {'; '.join(differences)}")

    if place.resume:
        run = Run.of(place.resume)
        refuse(run, settings.differences(run))
        return run.folder, True
    save_dir, name = Path(place.save_dir), place.run_name
    if place.auto_resume:
        folders = [save_dir / name] if name else list(save_dir.glob("*/"))
        for folder in folders:
            if owner_of(folder).get("arguments") == sys.argv[1:]:
                raise UserError(f"{folder} is trained by the same command: {describe_owner(folder)}; wait, or end it")
        for folder in sorted(folders, key=lambda path: path.stat().st_mtime if path.exists() else 0, reverse=True):
            run = Run(folder)
            if not (run.exists and run.can_resume):
                continue
            differences = settings.differences(run)
            if not differences and run.training["num_iterations"] == settings.config.num_iterations:
                return folder, True
            if name:
                refuse(run, differences)
    if name and Run(save_dir / name).can_resume:
        folder = save_dir / name
        raise UserError(f"{folder} holds a run already: continue it with --resume {folder}, or choose another --run_name")
    return (save_dir / name if name else None), False


# ------------------------------------------------------------------------------------------- from the weights of another run


def load_teacher(source: Path, image_shape: Sequence[int], create_model: Callable[..., Method], device: torch.device) -> Method:
    """The model of another run, to learn from: source is its folder, or a checkpoint with model_config.json beside it.

    Raises UserError where it is absent or damaged, or the run says that its images had another shape than image_shape.
    """
    theirs = Run.of(source).sample_shape
    if theirs is not None and theirs != tuple(image_shape):
        raise UserError(f"{source} was trained on images of shape {theirs}; here they are {tuple(image_shape)}")
    return load_model(checkpoint_of(source), create_model, device)


def give_teacher(model: Method, source: Path, image_shape: Sequence[int], create_model: Callable[..., Method]) -> str:
    """Let the model learn from the run or checkpoint `source`, and start from its weights where they mean the same.

    Returns which of the two it was, in a line. Raises UserError where there is no such model, it cannot teach this
    method, or it was trained at another resolution.
    """
    try:
        if not model.takes_teacher:
            raise ValueError(f"{type(model).__name__} learns from data alone and takes no teacher")
        teacher = load_teacher(source, image_shape, create_model, model.device)
        model.set_teacher(teacher)
        same = model.start_from(teacher)
    except ValueError as error:
        raise UserError(f"--teacher {source}: {error}") from error
    if same:
        return f"the network starts from the teacher's weights ({source})"
    return f"the network starts anew: what it predicts ({model.parameterization}) is not what its teacher predicts"


def init_network(network: nn.Module, source: Path) -> None:
    """Start from the network of another run, of whatever method: source is its folder or one of its checkpoints.

    A bare state dict is taken too, and a network under another name where it is the only one. The layers of the additional
    condition keep their fresh weights where the source has none, and are left out where it has more. Raises UserError where the
    source is no checkpoint or its network has another shape.
    """
    path = checkpoint_of(source)
    state = {plain_name(name): value for name, value in state_of(load_torch(path), path).items()}
    mark = next(iter(network.state_dict()))  # stands at the top of every network
    prefixes = [name.removesuffix(mark) for name in state if name == mark or name.endswith(f".{mark}")]
    prefix = prefixes[0] if len(prefixes) == 1 else "network."
    try:
        take_weights(network, {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)})
    except ValueError as error:
        raise UserError(f"{path} is {error}") from error
