"""What a run leaves in its folder: its log, checkpoints of the averaged model, resume.pt, previews, curves, its settings."""

import contextlib
import json
import math
import platform
import secrets
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from src.common.checkpoints import save_model
from src.common.classes import labels_in_turn
from src.common.cli import UserError
from src.common.devices import autocast, device_name
from src.common.files import CannotWrite, append_json_line, load_json_lines, save_json, write_whole
from src.common.noise import image_seeds
from src.methods.shared.method import Method
from src.runs.curves import draw_curves
from src.runs.folder import (
    LAST,
    LOG,
    ORIGINS,
    PREVIEW,
    PREVIEWS,
    RESUME,
    RESUME_PREVIOUS,
    TRAINING_CONFIG,
    Run,
    checkpoint_of,
    refer_to,
    trained_seconds,
)
from src.training.averages import EMA, Name
from src.training.config import TrainingConfig
from src.training.resume import write_resume


class RunLog:
    """log.jsonl of a run: one JSON object a line, with `step`, `images_seen` and named figures.

    Args:
        keep_until: continue the log of a resumed run, without the lines after this step.
        tensorboard: write the figures for TensorBoard too, into the run's folder.
    """

    def __init__(self, run_dir: Path, keep_until: int = 0, tensorboard: bool = False):
        self.path = run_dir / LOG
        self.rows = [row for row in load_json_lines(self.path) if row.get("step", math.inf) <= keep_until]
        self.write_all(run_dir)
        self.tensorboard = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise UserError("TensorBoard's files need a package that is not installed: pip install tensorboard") from error
            self.tensorboard = SummaryWriter(run_dir, purge_step=keep_until + 1)

    def write_all(self, run_dir: Path) -> None:
        """Write the whole log anew, into the run's folder or another. Raises CannotWrite where the disk refuses."""
        with write_whole(run_dir / LOG) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def write(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        append_json_line(row, self.path)
        if self.tensorboard:
            for key, value in row.items():
                if isinstance(value, (int, float)):
                    self.tensorboard.add_scalar(key, value, row["step"])
            self.tensorboard.flush()

    def seconds(self) -> float:
        """The time that the run had trained for at the last line."""
        return trained_seconds(self.rows) or 0.0


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

    @contextlib.contextmanager
    def as_sampled(self, average: Name | None, dtype: torch.dtype, compiled: bool) -> Iterator[None]:
        """Inside the block the model is as it will be sampled: averaged weights, uncompiled, in this precision."""
        eager = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
        with self.ema.applied(average), autocast(self.model.device, dtype), eager:
            yield


@dataclass(frozen=True)
class Previews:
    """How samples are shown while a run trains: as the challenge draws them.

    Args:
        nfe: the numbers of network calls, a row each.
        to_array: samples (B, ...) of the model -> as they are stored.
        draw: rows of such samples and their captions -> a picture.
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
        options = {"seeds": image_seeds(seed, 0, self.count), **labels_in_turn(model, 0, self.count)}
        size = (self.count, *shape)
        rows = [self.to_array(model.sample(size, num_inference_timesteps=nfe, **options)) for nfe in self.nfe]
        model.train(was_training)
        with write_whole(path) as partial:
            self.draw(rows, [f"NFE {nfe}" for nfe in self.nfe]).save(partial, format="png")


@dataclass
class Saver:
    """Writes a run's files; of several processes the first one has it.

    entries: of training_config.json, beside the command and the machine. average: of the weights that is saved and shown; None
    is the first.
    """

    run_dir: Path
    state: TrainingState
    log: RunLog
    config: TrainingConfig
    model_config: dict[str, Any]
    entries: dict[str, Any]
    dtype: torch.dtype
    previews: Previews | None
    sample_shape: Sequence[int]
    average: Name | None = None

    def save(self) -> None:
        """Write the checkpoint, the file to resume from, and the curves."""
        self.save_model(LAST.removesuffix(".ckpt"))
        self.state.save(self.run_dir)
        draw_curves(Run(self.run_dir))

    def save_model(self, name: str) -> None:
        """Write the averaged model as name.ckpt."""
        with self.state.as_sampled(self.average, self.dtype, self.config.compile):
            average = next(iter(self.state.ema.averages)) if self.average is None else self.average
            said = {"step": self.state.step, "average": average}
            save_model(self.state.model, self.run_dir / f"{name}.ckpt", self.model_config, **said)

    def save_preview(self) -> None:
        """Write a sheet of samples as previews/step_NNNNNNN.png, where there are previews."""
        if self.previews is None:
            return
        path = self.run_dir / PREVIEWS / PREVIEW.format(step=self.state.step)
        with self.state.as_sampled(self.average, self.dtype, self.config.compile):
            self.previews.write(self.state.model, self.sample_shape, path, self.config.seed)

    def write_training_config(self) -> None:
        """Write training_config.json: the command, the run's identity, the entries, and what it runs on.

        Of the runs that the entries name (ORIGINS) it says besides how they are found when they have been moved.
        """
        run, entries = Run(self.run_dir), self.entries
        origins = {key: refer_to(checkpoint_of(entries[key]), self.run_dir) for key in ORIGINS if entries.get(key)}
        settings = {
            "command": shlex.join(sys.argv),
            "run_id": (run.can_resume and run.run_id) or secrets.token_hex(8),
            **entries,
            **({"origins": origins} if origins else {}),
            "device": device_name(self.state.model.device),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        save_json(settings, self.run_dir / TRAINING_CONFIG)

    def rescue(self, last_good: str) -> str:
        """Save after a file was refused: in the run's folder, where resume_previous.pt makes room, or in a temporary one.

        Returns what became of it, in words. last_good: what is said of the last checkpoint where nothing could be saved.
        """
        spare = Path(tempfile.gettempdir(), f"{self.run_dir.name}-{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):  # a disk that became read-only, or went
            if (self.run_dir / RESUME).is_file():
                (self.run_dir / RESUME_PREVIOUS).unlink(missing_ok=True)
        for folder in (self.run_dir, spare):
            try:
                saver = replace(self, run_dir=folder)
                saver.write_training_config()
                self.log.write_all(folder)
                saver.save()
            except (CannotWrite, OSError):
                continue
            return f"everything up to step {self.state.step} is saved: mend that, and continue with --resume {folder}"
        shutil.rmtree(spare, ignore_errors=True)
        return f"nor could it be saved in {spare.parent}; {last_good}"
