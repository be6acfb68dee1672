"""What a run leaves in its folder: checkpoints of the averaged model, resume.pt, previews, curves, training_config.json."""

import contextlib
import platform
import secrets
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from src.common.checkpoints import save_model
from src.common.classes import labels_in_turn
from src.common.cli import UserError
from src.common.devices import autocast, device_name
from src.common.files import save_json, write_whole
from src.common.noise import image_seeds
from src.methods.shared.method import Method
from src.runs.curves import draw_curves
from src.runs.folder import LAST, ORIGINS, PREVIEW, PREVIEWS, RESUME, TRAINING_CONFIG, Run, checkpoint_of, refer_to
from src.training.ema import EMA, Name
from src.training.log import RunLog
from src.training.resume import write_resume


@dataclass
class TrainingState:
    """Everything that changes while a run trains. Randomness and data follow from the seed and the step.

    settings: what the run was started with, kept in the file for whoever continues it.
    """

    model: Method
    optimizers: dict[str, torch.optim.Optimizer]
    ema: EMA
    settings: dict[str, Any] = field(default_factory=dict)
    step: int = 0

    def save(self, run_dir: Path) -> None:
        """Write resume.pt, whole or not at all."""
        state = {
            "step": self.step,
            "settings": self.settings,
            "model": self.model.state_dict(),
            "train_only": {name: module.state_dict() for name, module in self.model.train_only.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "ema": self.ema.state_dict(),
        }
        write_resume(state, run_dir)

    def load(self, saved: dict[str, Any], run_dir: Path) -> None:
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
            raise UserError(f"{run_dir / RESUME} is not of this model: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True)
class Previews:
    """How samples are shown while a run trains: as the challenge draws them.

    Args:
        nfe: the numbers of network calls, a row each.
        to_array: samples (B, ...) of the model -> as they are stored.
        draw: rows of such samples and their labels -> a picture.
        count: samples in each row.
    """

    nfe: Sequence[int]
    to_array: Callable[[torch.Tensor], np.ndarray]
    draw: Callable[[Sequence[np.ndarray], Sequence[str]], Image.Image]
    count: int

    @torch.no_grad()
    def write(self, model: Method, shape: Sequence[int], path: Path, seed: int) -> None:
        """A picture of samples of this shape: a row for each NFE, the same noise in a column."""
        was_training = model.training
        model.eval()
        rows = []
        for nfe in self.nfe:
            told = {"seeds": image_seeds(seed, 0, self.count), **labels_in_turn(model, 0, self.count)}
            rows.append(self.to_array(model.sample((self.count, *shape), num_inference_timesteps=nfe, **told)))
        model.train(was_training)
        with write_whole(path) as partial:
            self.draw(rows, [f"NFE {nfe}" for nfe in self.nfe]).save(partial, format="png")


@dataclass
class Saver:
    """Writes a run's files; of several processes the first one has it.

    half_life: of the weight average that is saved and shown; None is the first.
    """

    run_dir: Path
    state: TrainingState
    log: RunLog
    model_config: dict[str, Any]
    dtype: torch.dtype
    compiled: bool
    previews: Previews | None
    sample_shape: Sequence[int]
    seed: int
    half_life: Name | None = None

    def save(self) -> None:
        """Write the checkpoint, the file to resume from, and the curves."""
        self.save_model(LAST.removesuffix(".ckpt"))
        self.state.save(self.run_dir)
        draw_curves(Run(self.run_dir))

    def save_model(self, name: str) -> None:
        """Write the averaged model as name.ckpt."""
        with as_sampled(self.state, self.half_life, self.dtype, self.compiled):
            save_model(self.state.model, self.run_dir / f"{name}.ckpt", self.model_config, step=self.state.step)

    def save_preview(self) -> None:
        """Write a sheet of samples as previews/step_NNNNNNN.png, where there are previews."""
        if self.previews is None:
            return
        path = self.run_dir / PREVIEWS / PREVIEW.format(step=self.state.step)
        with as_sampled(self.state, self.half_life, self.dtype, self.compiled):
            self.previews.write(self.state.model, self.sample_shape, path, self.seed)


@contextlib.contextmanager
def as_sampled(state: TrainingState, half_life: Name | None, dtype: torch.dtype, compiled: bool) -> Iterator[None]:
    """Inside the block the model is as it will be sampled: averaged weights, uncompiled, in the run's precision."""
    eager = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
    with state.ema.applied(half_life), autocast(state.model.device, dtype), eager:
        yield


def write_training_config(run_dir: Path, device: torch.device, entries: dict[str, Any]) -> None:
    """Write training_config.json: the command, the run's identity, these entries, and what it runs on.

    Of the runs that the entries name (ORIGINS) it says besides how they are found when they have been moved.
    """
    run = Run(run_dir)
    run_id = (run.can_resume and run.run_id) or secrets.token_hex(8)
    origins = {key: refer_to(checkpoint_of(entries[key]), run_dir) for key in ORIGINS if entries.get(key)}
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    told = {"command": shlex.join(sys.argv), "run_id": run_id, **entries, **({"origins": origins} if origins else {})}
    save_json({**told, "device": device_name(device), **versions}, run_dir / TRAINING_CONFIG)
