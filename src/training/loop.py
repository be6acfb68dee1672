"""The one training loop. It knows no method by name: a method speaks to it through compute_loss and the hooks of Method."""

import contextlib
import math
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from src.common.cli import UserError, signal_of
from src.common.devices import autocast, precision_name, seed_everything
from src.common.files import CannotWrite, check_writable, remove_leftovers
from src.common.noise import step_seed
from src.common.processes import Processes
from src.common.progress import Progress
from src.methods.shared.method import Method
from src.runs.folder import LAST, RESUME, RESUME_PREVIOUS, Run
from src.runs.scores import scores_by_average
from src.training.batches import Batches
from src.training.checkpoint import parameter_count
from src.training.clock import Clock
from src.training.config import TrainingConfig, learning_rate, micro_batches
from src.training.due import Due, due_after
from src.training.ema import EMA, Name
from src.training.log import RunLog
from src.training.memory_layout import apply_layout, faster_layout
from src.training.random_draws import DrawAsOneBatch
from src.training.report import LossReport
from src.training.resume import read_resume
from src.training.saving import Previews, Saver, TrainingState, as_sampled, write_training_config
from src.training.signals import stop_signals

LABEL_DRAWS, NOISE_DRAWS = 10**6, 10**6 + 1  # in the place of a parameter group's number: draws that are no loss's
QUESTION_SECONDS = 5.0  # between which several processes ask whether one of them is to stop
Evaluate = Callable[[Method], dict[str, float]]  # the model as it is -> named figures, e.g. {"fid_nfe1": 41.5}
Clip = Callable[[Sequence[torch.nn.Parameter]], torch.Tensor]  # clips the gradients; their norm before that


class BatchSource(Protocol):
    """Where training batches come from, each a function of its number (from 0) alone. Batches is the usual one."""

    sample_shape: tuple[int, ...]
    has_noise: bool  # whether each sample has noise of its own
    has_labels: bool  # whether each sample has a class

    def __len__(self) -> int:
        """The number of training samples."""

    def rows(self, number: int, rows: slice) -> torch.Tensor:
        """These rows of batch `number`: float32 (rows, *sample_shape)."""

    def noise(self, number: int, rows: slice) -> torch.Tensor:
        """The noise that belongs to them, of the same shape; only where has_noise."""

    def labels(self, number: int, rows: slice) -> torch.Tensor:
        """Their labels: int64 (rows,); only where has_labels."""


@dataclass
class Trainer:
    """Trains model on images and leaves in run_dir what sampling, a later run and a person need.

    That is last.ckpt (averaged weights), model_config.json, resume.pt, log.jsonl, training_curves.png, previews/ and
    training_config.json, and NAME.ckpt for each of the method's milestones. SIGTERM and Ctrl-C save and end the run early.

    Args:
        model: on `device` already.
        images: uint8 (N, 3, H, W), or floating-point samples (N, ...) as the model sees them; or where batches come from.
        model_config: the options that build the model anew, saved as model_config.json.
        dtype: precision of the network's matrix products; weights stay float32.
        processes: share each batch; this one alone if not given.
        evaluate: measures the averaged model every eval_interval steps, and each average at the end, where the one of the
            lowest geometric mean becomes last.ckpt.
        deadline: the time.monotonic() by which all must be saved.
        about: further entries of training_config.json.
        noise_seeds: int64 (N,), where each image has noise of its own: the seed that draw_noise makes it from. Without, every
            step draws fresh noise.
        labels: int64 (N,), the class of each image, for a model with classes.
        previews: how samples are shown; without there are none.
        clip: clips the gradients of a parameter group; by default the norm of all of them, to config.grad_clip.
        clock: measures what is done beside the steps.
        progress_bar: whether to show one.
    """

    model: Method
    images: np.ndarray | BatchSource
    config: TrainingConfig
    model_config: dict[str, Any]
    run_dir: Path
    device: torch.device
    dtype: torch.dtype = torch.float32
    processes: Processes = field(default_factory=Processes)
    evaluate: Evaluate | None = None
    deadline: float = math.inf
    about: dict[str, Any] = field(default_factory=dict)
    noise_seeds: np.ndarray | None = None
    labels: np.ndarray | None = None
    previews: Previews | None = None
    clip: Clip | None = None
    clock: Clock = field(default_factory=Clock)
    progress_bar: bool = True

    def __post_init__(self) -> None:
        config = self.config
        self.parts = micro_batches(config, self.processes)
        self.batches: BatchSource = (
            Batches(
                self.images,
                config.batch_size,
                config.seed,
                self.device,
                config.flip,
                self.noise_seeds,
                config.affine,
                self.labels,
            )
            if isinstance(self.images, np.ndarray)
            else self.images
        )
        self.sample_shape = self.batches.sample_shape
        self.milestones = self.model.milestones(config.num_iterations)
        self.groups = {name: list(parameters) for name, parameters in self.model.optim_groups().items()}
        self.losses = LossReport(config.batch_size, self.device, self.processes, self.model.progress)
        self.last_good = 0  # the step of the last checkpoint
        self.stopped_by = 0  # the signal that ended the run before its last step

    # --------------------------------------------------------------------------------------------------- the run

    def begin(self, resume: bool = False) -> None:
        """Make ready for the first step, or for the one after run_dir/resume.pt was written."""
        config = self.config
        saved = read_resume(self.run_dir) if resume else None
        layout = self._memory_layout(saved)
        apply_layout(self.model, layout)
        optimizers = {
            name: torch.optim.AdamW(parameters, config.lr, self.model.betas(name), weight_decay=config.weight_decay, fused=True)
            for name, parameters in self.groups.items()
        }
        settings = {**asdict(config), "model_config": self.model_config, "layout": layout}
        self.state = TrainingState(self.model, optimizers, EMA(self.model, config.ema_half_lives, config.ema_decay), settings)
        self.first_step = 1 + (saved["step"] if saved else 0)
        if saved:
            self.state.load(saved, self.run_dir)
            self.last_good = self.state.step
        if config.compile:
            self.model.network.compile()
        self.model.train()

    def run(self, resume: bool = False) -> bool:
        """Make all steps, from the first or from where run_dir/resume.pt is.

        Returns whether they are all done; False if it was told to stop, or the deadline came.

        Raises UserError if the loss stops being finite, the disk refuses a file, or resume.pt does not fit.
        """
        config = self.config
        self.begin(resume)
        if resume and self.state.step >= config.num_iterations and (self.run_dir / LAST).is_file():
            self.processes.say(f"{self.run_dir} has made its {self.state.step} steps already")
            if not self.evaluate:
                return True
        seconds_before = 0.0
        if self.processes.is_first:
            check_writable(self.run_dir / LAST)
            remove_leftovers(self.run_dir)
            write_training_config(self.run_dir, self.device, self._entries())
            self.log = RunLog(self.run_dir, self.state.step, config.tensorboard)
            self.saver = Saver(
                self.run_dir,
                self.state,
                self.log,
                self.model_config,
                self.dtype,
                config.compile,
                self.previews,
                self.sample_shape,
                config.seed,
            )
            seconds_before = self.log.seconds()
        self.losses = LossReport(config.batch_size, self.device, self.processes, self.model.progress, seconds_before)
        self.model.on_losses = self.losses.add_losses
        try:
            with stop_signals() as stopped:
                finished = self._make_steps(stopped)
                self.save(preview=False)  # whatever happens from here on, the steps are kept
                self.processes.wait()  # torchrun ends the others where one has ended
                self.stopped_by = 0 if finished else stopped()
            if finished:
                finished = self._finish()
        except CannotWrite as error:
            if not self.processes.is_first:
                raise
            raise UserError(f"{error}; {self._rescue()}") from error
        finally:
            self.model.on_losses = None
        if not finished:
            self.processes.say(
                f"stopped after step {self.state.step} of {config.num_iterations}, everything saved: continue it with "
                f"--resume {self.run_dir}"
            )
        return finished

    def _rescue(self) -> str:
        """Save after a file was refused: in the run's folder, where resume_previous.pt makes room, or in a temporary one.

        Returns what became of it, in words.
        """
        spare = Path(tempfile.gettempdir(), f"{self.run_dir.name}-{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):  # a disk that became read-only, or went
            if (self.run_dir / RESUME).is_file():
                (self.run_dir / RESUME_PREVIOUS).unlink(missing_ok=True)
        for folder in (self.run_dir, spare):
            try:
                write_training_config(folder, self.device, self._entries())
                self.log.write_all(folder)
                replace(self.saver, run_dir=folder).save()
            except (CannotWrite, OSError):
                continue
            return f"everything up to step {self.state.step} is saved: mend that, and continue with --resume {folder}"
        shutil.rmtree(spare, ignore_errors=True)
        return f"nor could it be saved in {spare.parent}; {self._last_good()}"

    def _last_good(self) -> str:
        return f"the last good checkpoint is of step {self.last_good}" if self.last_good else "none was saved yet"

    def _memory_layout(self, saved: dict[str, Any] | None) -> str:
        """The layout of weights that a resumed run had, the one asked for, or the faster one."""
        if self.config.memory_format != "auto":
            return self.config.memory_format
        if saved:
            return saved["settings"]["layout"]
        size = self.parts[0].stop - self.parts[0].start
        mine = faster_layout(self.model.network, self.sample_shape, size, self.dtype) if self.processes.is_first else None
        return self.processes.first_says(mine)

    def _make_steps(self, stopped: Callable[[], int]) -> bool:
        """Make the steps that are left; False if told to stop before the last."""
        config, first = self.config, self.state.step + 1
        step_start, slowest = time.perf_counter(), 0.0
        self.next_question, self.last_question = first, (first - 1, step_start)
        title = "training" if self.progress_bar and self.processes.is_first else None
        with Progress(config.num_iterations, title, "step", first - 1) as progress:
            for step in progress.each(range(first, config.num_iterations + 1)):
                self.training_step(step)
                due = due_after(step, config, self.milestones, bool(self.evaluate))
                now = time.perf_counter()
                slowest, step_start = max(slowest, now - step_start), now
                stop = self._must_stop(step, due, 2 * slowest, stopped)
                if due.log or due.interrupts or stop:
                    self.report(step, progress)
                if due.evaluate and not stop:
                    self.evaluate_average(step)
                if due.milestone and self.processes.is_first:
                    self.saver.save_model(due.milestone)
                if due.save and not stop:
                    self.save()
                if due.preview and not stop:
                    self.save_preview()
                if due.interrupts:
                    self.losses.restart_clock()
                    step_start = time.perf_counter()
                if stop:
                    return False
        return True

    def _must_stop(self, step: int, due: Due, seconds: float, stopped: Callable[[], int]) -> bool:
        """Whether a signal came, or the next step (so many seconds) and what is due do not end before the deadline.

        After the last step nothing stops a run; several processes ask each other every few seconds, and where something is due.
        """
        several = self.processes.size > 1
        asks = not several or step >= self.next_question or due.log or due.evaluate or due.save or due.preview
        if step == self.config.num_iterations or not asks:
            return False
        seconds += self.clock.longest("evaluate") if due.evaluate else 0.0
        seconds += self.clock.longest("save") if due.save or due.milestone else 0.0
        seconds += self.clock.longest("preview") if due.save or due.preview else 0.0
        stop = bool(stopped()) or not self._time_for(seconds)
        return self._ask_all(step, stop) if several else stop

    def _ask_all(self, step: int, stop: bool) -> bool:
        """Whether any process must stop; and settle, for all of them alike, after which step they ask again."""
        (before, then), now = self.last_question, time.perf_counter()
        told = torch.tensor([float(stop), (now - then) / (step - before)], dtype=torch.float64, device=self.device)
        self.processes.sum([told])
        stops, pace = told.tolist()
        self.next_question = step + max(1, int(QUESTION_SECONDS * self.processes.size / pace))
        self.last_question = step, now
        return stops > 0

    def _finish(self) -> bool:
        """The last preview, or the last scores, the choice among the averages and its files.

        False if the deadline, or a signal, came before that.
        """
        try:
            if self.evaluate and self.config.num_iterations:
                return self._choose_average()
            self.save_preview()
            return True
        except KeyboardInterrupt as stop:
            self.stopped_by = signal_of(stop)
            return False

    def _choose_average(self) -> bool:
        """Measure each average, and save the best one as last.ckpt. False if the deadline came before that."""
        last = self.config.num_iterations
        by_average = scores_by_average(Run(self.run_dir), last) if self.processes.is_first else None  # if it was continued
        measured = self.processes.first_says(by_average)
        means = {}
        for half_life in self.state.ema.averages:
            late = half_life not in measured and not self._time_for(self.clock.longest("evaluate"))
            if half_life not in measured and self.processes.any(late, self.device):
                return False
            figures = measured.get(half_life) or self.evaluate_average(last, half_life)
            means[half_life] = math.exp(np.mean([math.log(max(value, 1e-9)) for value in figures.values()]))
        best = min(means, key=means.__getitem__)
        if self.processes.is_first:
            self.saver.half_life = best
        self.processes.say(f"last.ckpt is the average of half-life {best}, the best on the development split")
        self.save()
        return True

    def _time_for(self, seconds: float) -> bool:
        """Whether so many seconds and a last save end before the deadline."""
        state_bytes = 4 * parameter_count(self.model) * (4 + len(self.state.ema.averages))  # weights, two moments, averages
        return time.monotonic() + seconds + (self.clock.longest("save") or 1 + state_bytes / 50e6) <= self.deadline

    # ---------------------------------------------------------------------------------------------------- a step

    def training_step(self, step: int) -> None:
        """Make step number `step` (from 1): a loss, backward pass and optimizer step for each parameter group.

        All randomness of the step comes from (seed, step), so a resumed run repeats an uninterrupted one, and from the place
        in the whole batch, so it does not matter how the batch is divided. Nothing waits for the device.
        """
        config, model, whole = self.config, self.model, self.config.batch_size
        parts = self._batch(step)
        for index, (name, optimizer) in enumerate(self.state.optimizers.items()):
            for other in self.state.optimizers.values():
                other.zero_grad()
            total = torch.zeros((), device=self.device)
            for rows, data, noise_here, known in parts:
                share = (rows.stop - rows.start) / whole
                seed_everything(step_seed(config.seed, step, index))
                draws = contextlib.nullcontext() if share == 1 else DrawAsOneBatch(rows, whole)
                with draws, autocast(self.device, self.dtype):
                    told = {"step": step, "total_steps": config.num_iterations, "group": name, **known}
                    loss = model.compute_loss(data, noise_here, **told)
                (loss * share).backward()
                total += loss.detach() * share
            if self.batches.has_labels and step == self.first_step and any(known["labels"].any() for *_, known in parts):
                self._check_labels(name)
            self.processes.sum_gradients(self.groups[name])
            norm = self._clip(self.groups[name])
            for options in optimizer.param_groups:
                options["lr"] = learning_rate(step, config) * model.lr_scale(name)
            optimizer.step()
            self.losses.add_step(name, total, norm)
        model.on_step_end(step, config.num_iterations)
        self.state.ema.update(step)
        self.state.step = step

    def _check_labels(self, group: str) -> None:
        """Raise UserError where the embedding of classes is of this group, and a batch's labels have given it no gradient."""
        embedding = getattr(self.model.network, "class_embedding", None)
        if embedding is None or not any(parameter is embedding.weight for parameter in self.groups[group]):
            return
        if embedding.weight.grad is None or not embedding.weight.grad[1:].any():
            raise UserError(
                f"{type(self.model).__name__} loses the labels: compute_loss is given labels (B,) and has to hand them on to "
                "predict and the network, as **with_labels(labels) does; or train with --no-class_conditional"
            )

    def _clip(self, parameters: list[torch.nn.Parameter]) -> torch.Tensor:
        """Clip the gradients; their norm before that."""
        if self.clip is not None:
            return self.clip(parameters)
        return torch.nn.utils.clip_grad_norm_(parameters, self.config.grad_clip or math.inf)

    def _batch(self, step: int) -> list[tuple[slice, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]:
        """This process's micro-batches of the step: their rows of the whole batch, data and noise (rows, ...), and labels."""
        number, batches = step - 1, self.batches
        if batches.has_noise:
            noises = [batches.noise(number, rows) for rows in self.parts]
        else:
            seed_everything(step_seed(self.config.seed, step, NOISE_DRAWS))
            noise = torch.randn(self.config.batch_size, *self.sample_shape, device=self.device)
            noises = [noise[rows] for rows in self.parts]
        known = self._labels(step) if batches.has_labels else [{}] * len(self.parts)
        return [(rows, batches.rows(number, rows), *rest) for rows, *rest in zip(self.parts, noises, known, strict=True)]

    def _labels(self, step: int) -> list[dict[str, torch.Tensor]]:
        """The labels of this process's micro-batches, (rows,), as compute_loss takes them; label_dropout of them are 0."""
        draws = torch.Generator().manual_seed(step_seed(self.config.seed, step, LABEL_DRAWS))
        dropped = torch.rand(self.config.batch_size, generator=draws) < self.config.label_dropout
        return [
            {"labels": self.batches.labels(step - 1, rows).masked_fill(dropped[rows].to(self.device), 0)} for rows in self.parts
        ]

    # ------------------------------------------------------------------------------------------ beside the steps

    def report(self, step: int, progress: Progress) -> None:
        """Read the losses since the last report off the device, check them and write a line of log.jsonl."""
        with self.clock.timed("report"):
            line = self.losses.read(step, learning_rate(step, self.config), f"{self._last_good()} ({self.run_dir})")
            if line and self.processes.is_first:
                self.log.write(line)
                progress.note(f"loss {line['loss']:.4f}, {line['images_per_second']:.1f} images/s")

    def evaluate_average(self, step: int, half_life: Name | None = None) -> dict[str, float]:
        """Evaluate the average of this half-life (the first if None) and log the figures."""
        half_life = next(iter(self.state.ema.averages)) if half_life is None else half_life
        self.model.eval()
        with self.clock.timed("evaluate"), as_sampled(self.state, half_life, self.dtype, self.config.compile):
            figures = self.evaluate(self.model)
        self.model.train()
        if self.processes.is_first:
            seen = step * self.config.batch_size
            self.log.write({"step": step, "images_seen": seen, "ema_half_life": half_life, **figures})
        return figures

    def save(self, preview: bool = True) -> None:
        """Write the checkpoint, the file to resume from, the curves and a preview."""
        if self.processes.is_first:
            with self.clock.timed("save"):
                self.saver.save()
                self.last_good = self.state.step
        if preview:
            self.save_preview()

    def save_preview(self) -> None:
        """Write a sheet of samples."""
        if self.processes.is_first:
            with self.clock.timed("preview"):
                self.saver.save_preview()

    def _entries(self) -> dict[str, Any]:
        """What training_config.json says beside the command and the machine."""
        return {
            **asdict(self.config),
            **self.about,
            "layout": self.state.settings["layout"],
            "processes": self.processes.size,
            "precision": precision_name(self.dtype),
            "image_shape": list(self.sample_shape),
            "num_training_images": len(self.batches),
            "num_parameters": parameter_count(self.model),
        }
