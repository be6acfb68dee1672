"""The files a run can be continued from."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from src.common.checkpoints import load_model, plain_name, state_of
from src.common.cli import UserError
from src.common.files import load_json, load_torch, save_torch
from src.methods._base import Method, take_weights

if TYPE_CHECKING:
    from src.training.ema import EMA

RESUME = "resume.pt"
PREVIOUS = "resume_previous.pt"


@dataclass
class TrainingState:
    """Everything that changes while a run trains. Randomness and data follow from the seed and the step.

    settings: what the run was started with, kept in the file for whoever continues it.
    """

    model: Method
    optimizers: dict[str, torch.optim.Optimizer]
    ema: "EMA"
    step: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def save(self, run_dir: Path) -> None:
        """Write resume.pt, whole or not at all; the one before it becomes resume_previous.pt."""
        state = {
            "step": self.step,
            "settings": self.settings,
            "model": self.model.state_dict(),
            "train_only": {name: module.state_dict() for name, module in self.model.train_only.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "ema": self.ema.state_dict(),
        }
        path = run_dir / RESUME
        save_torch({**state, "sha256": digest(state)}, run_dir / f"{RESUME}.new")
        if path.exists():
            os.replace(path, run_dir / PREVIOUS)
        os.replace(run_dir / f"{RESUME}.new", path)

    def load(self, saved: dict[str, Any], source: Path) -> None:
        """Restore what save wrote. Raises UserError if it is of another model."""
        try:
            self.model.load_state_dict(saved["model"])
            for name, module in self.model.train_only.items():
                module.load_state_dict(saved["train_only"][name])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(saved["optimizers"][name])
            self.ema.load_state_dict(saved["ema"])
            self.step = saved["step"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{source} is not of this model: {str(error).splitlines()[0]}") from error


def read_resume(run_dir: Path) -> dict[str, Any]:
    """What TrainingState.save wrote last. A damaged resume.pt is named, and the one before it read instead.

    Raises UserError where neither is there or sound.
    """
    reasons = []
    for path in (run_dir / RESUME, run_dir / PREVIOUS):
        if not path.is_file():
            continue
        try:
            return _read_checked(path)
        except UserError as error:
            reasons.append(str(error))
            print(f"warning: {error}")
    raise UserError(f"{run_dir} holds nothing to continue from: {'; '.join(reasons) or f'no {RESUME}'}")


def load_teacher(source: Path, image_shape: Sequence[int], create_model: Callable[..., Method], device: torch.device) -> Method:
    """The model of another run, to learn from: source is its folder, or a checkpoint with model_config.json beside it.

    Raises UserError where it is absent or damaged, or the run says that its images had another shape than image_shape.
    """
    folder = source if source.is_dir() else source.parent
    told = folder / "training_config.json"
    theirs = load_json(told).get("image_shape") if told.is_file() else None
    if theirs is not None and list(theirs) != list(image_shape):
        raise UserError(f"{source} was trained on images of shape {tuple(theirs)}; here they are {tuple(image_shape)}")
    return load_model(source / "last.ckpt" if source.is_dir() else source, create_model, device)


def init_network(network: nn.Module, source: Path) -> None:
    """Start from the network of another run, of whatever method: source is its folder or one of its checkpoints.

    A bare state dict is taken too, and a network under another name where it is the only one. The layers of the additional
    condition keep their fresh weights where the source has none, and are left out where it has more. Raises UserError where the
    source is no checkpoint or its network has another shape.
    """
    path = source / "last.ckpt" if source.is_dir() else source
    state = {plain_name(name): value for name, value in state_of(load_torch(path), path).items()}
    mark = next(iter(network.state_dict()))  # stands at the top of every network
    prefixes = [name.removesuffix(mark) for name in state if name == mark or name.endswith(f".{mark}")]
    prefix = prefixes[0] if len(prefixes) == 1 else "network."
    given = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    try:
        take_weights(network, given)
    except ValueError as error:
        raise UserError(f"{path} is {error}") from error


def has_resume(run_dir: Path) -> bool:
    return (run_dir / RESUME).is_file() or (run_dir / PREVIOUS).is_file()


def _read_checked(path: Path) -> dict[str, Any]:
    saved = load_torch(path)
    if not isinstance(saved, dict) or "sha256" not in saved:
        raise UserError(f"{path}: damaged or not a file to resume from (no checksum)")
    expected = saved.pop("sha256")
    if digest(saved) != expected:
        raise UserError(f"{path}: damaged (its checksum differs)")
    return saved


def digest(value: Any) -> str:
    """SHA-256 over all tensors and plain values in nested dicts and lists, in order."""
    sha = hashlib.sha256()
    for leaf in _leaves(value):
        if isinstance(leaf, torch.Tensor):
            sha.update(f"{tuple(leaf.shape)} {leaf.dtype}".encode())
            sha.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        else:
            sha.update(repr(leaf).encode())
    return sha.hexdigest()


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
