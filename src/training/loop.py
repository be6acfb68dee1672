"""The one training loop. It knows no method by name: a method speaks to it through compute_loss and the hooks of Method."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.common.cli import UserError, signal_of
from src.common.devices import precision_name
from src.common.files import CannotWrite, check_writable, remove_leftovers
from src.common.processes import Processes
from src.common.progress import Progress
from src.methods.shared.method import Method
from src.runs.folder import LAST, Run
from src.runs.scores import scores_by_average
from src.training.averages import EMA, Name
from src.training.batches import Batches
from src.training.config import TrainingConfig, learning_rate
from src.training.cost import parameter_count
from src.training.resume import read_resume
from src.training.schedule import Clock, Deadline, due_after, stop_signals
from src.training.step import Clip, TrainingStep
from src.training.writing import Previews, RunLog, Saver, TrainingState

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Evaluate = Callable[[Method], dict[str, float]]  # the model as it is -> named figures, e.g. {"fid_nfe1": 41.5}


@dataclass
class Trainer:
    """Trains model on images and leaves in run_dir what sampling, a later run and a person need.

    That is last.ckpt (averaged weights), model_config.json, resume.pt, log.jsonl, training_curves.png, previews/ and
    training_config.json, and NAME.ckpt for each of the method's milestones. SIGTERM and Ctrl-C save and end the run early.

    Args:
        model: on `device` already.
        images: uint8 (N, 3, H, W), or floating-point samples (N, ...) as the model sees them; or what has Batches' methods.
        model_config: the options that build the model anew, saved as model_config.json.
        dtype: precision of the network's matrix products; weights stay float32.
        processes: share each batch; this one alone if not given.
        evaluate: measures the averaged model every eval_interval steps, and each average at the end, where the one of the
            lowest geometric mean becomes last.ckpt.
        deadline: the time.monotonic() by which all must be saved.
        entries: further entries of training_config.json.
        noise_seeds: int64 (N,), where each image has noise of its own: the seed that draw_noise makes it from. Without, every
            step draws fresh noise.
        labels: int64 (N,), the class of each image, for a model with classes.
        previews: how samples are shown; without there are none.
        clip: clips the gradients of a parameter group; by default the norm of all of them, to config.grad_clip.
        clock: measures what is done beside the steps.
        progress_bar: whether to show one.
    """

    model: Method
    images: np.ndarray | Batches
    config: TrainingConfig
    model_config: dict[str, Any]
    run_dir: Path
    device: torch.device
    dtype: torch.dtype = torch.float32
    processes: Processes = field(default_factory=Processes)
    evaluate: Evaluate | None = None
    deadline: float = math.inf
    entries: dict[str, Any] = field(default_factory=dict)
    noise_seeds: np.ndarray | None = None
    labels: np.ndarray | None = None
    previews: Previews | None = None
    clip: Clip | None = None
    clock: Clock = field(default_factory=Clock)
    progress_bar: bool = True

    def __post_init__(self) -> None:
        config, self.batches = self.config, self.images
        if isinstance(self.images, np.ndarray):
            given = (self.noise_seeds, config.affine, self.labels)
            self.batches = Batches(self.images, config.batch_size, config.seed, self.device, config.flip, *given)
        self.milestones = self.model.milestones(config.num_iterations)
        self.last_good = 0  # the step of the last checkpoint
        self.stopped_by = 0  # the signal that ended the run before its last step

    # --------------------------------------------------------------------------------------------------- the run

    def begin(self, resume: bool = False) -> None:
        """Make ready for the first step, or for the one after run_dir/resume.pt was written."""
        config, model = self.config, self.model
        saved = read_resume(self.run_dir) if resume else None
        layout = saved["settings"]["layout"] if saved else usual_layout(self.device, self.dtype)
        model.to(memory_format=LAYOUTS[layout])
        optimizers = {
            name: torch.optim.AdamW(parameters, config.lr, model.betas(name), weight_decay=config.weight_decay, fused=True)
            for name, parameters in model.optim_groups().items()
        }
        settings = {**asdict(config), "model_config": self.model_config, "layout": layout}
        self.state = TrainingState(model, optimizers, EMA(model, config.ema_half_lives, config.ema_decay), settings)
        if saved:
            self.state.load(saved, self.run_dir)
            self.last_good = self.state.step
        self.training_step = TrainingStep(self.state, self.batches, config, self.dtype, self.processes, self.clip)
        bytes_saved = 4 * parameter_count(model) * (4 + len(self.state.ema.averages))  # weights, two moments, averages
        self.until = Deadline(self.deadline, 1 + bytes_saved / 50e6, self.clock, self.processes, self.device)
        if config.compile:
            model.network.compile()
        model.train()

    def run(self, resume: bool = False) -> bool:
        """Make all steps, from the first or from where run_dir/resume.pt is.

        Returns whether they are all done; False if a signal stopped it, or the deadline came.

        Raises UserError if the loss stops being finite, the disk refuses a file, or resume.pt does not fit.
        """
        config = self.config
        self.begin(resume)
        if resume and self.state.step >= config.num_iterations and (self.run_dir / LAST).is_file():
            self.processes.say(f"{self.run_dir} has made its {self.state.step} steps already")
            if not self.evaluate:
                return True
        if self.processes.is_first:
            self._begin_files()
        self.model.on_losses = self.training_step.losses.add_losses
        try:
            with stop_signals() as self.until.stopped:
                finished = self._make_steps()
                self.save()  # whatever happens from here on, the steps are kept
                self.processes.wait()  # torchrun ends the others where one has ended
                self.stopped_by = 0 if finished else self.until.stopped()
            if finished:
                finished = self._finish()
        except CannotWrite as error:
            if not self.processes.is_first:
                raise
            raise UserError(f"{error}; {self.saver.rescue(self._last_good())}") from error
        finally:
            self.model.on_losses = None
        if not finished:
            self.processes.say(
                f"stopped after step {self.state.step} of {config.num_iterations}, everything saved: continue it with "
                f"--resume {self.run_dir}"
            )
        return finished

    def _begin_files(self) -> None:
        """Of the first process: what it writes with, and training_config.json."""
        config = self.config
        check_writable(self.run_dir / LAST)
        remove_leftovers(self.run_dir)
        entries = {
            **asdict(config),
            **self.entries,
            "layout": self.state.settings["layout"],
            "processes": self.processes.size,
            "precision": precision_name(self.dtype),
            "image_shape": list(self.batches.sample_shape),
            "num_training_images": len(self.batches),
            "num_parameters": parameter_count(self.model),
        }
        self.log = RunLog(self.run_dir, self.state.step, config.tensorboard)
        state, previews, shape = self.state, self.previews, self.batches.sample_shape
        self.saver = Saver(self.run_dir, state, self.log, config, self.model_config, entries, self.dtype, previews, shape)
        self.saver.write_training_config()
        self.training_step.losses.seconds_before = self.log.seconds()

    def _make_steps(self) -> bool:
        """Make the steps that are left; False if it has to stop before the last."""
        config, first, losses = self.config, self.state.step + 1, self.training_step.losses
        step_start, slowest = time.perf_counter(), 0.0
        self.until.begin(first)
        title = "training" if self.progress_bar and self.processes.is_first else None
        with Progress(config.num_iterations, title, "step", first - 1) as progress:
            for step in progress.each(range(first, config.num_iterations + 1)):
                self.training_step(step)
                due = due_after(step, config, self.milestones, bool(self.evaluate))
                now = time.perf_counter()
                slowest, step_start = max(slowest, now - step_start), now
                stop = step < config.num_iterations and self.until.stops(step, due, 2 * slowest)
                if due or stop:
                    self.log_losses(step, progress)
                if "evaluate" in due and not stop:
                    self.evaluate_average(step)
                if "milestone" in due and self.processes.is_first:
                    self.saver.save_model(self.milestones[step])
                if "save" in due and not stop:
                    self.save()
                if "preview" in due and not stop:
                    self.save_preview()
                if due - {"log"}:
                    losses.restart_clock()  # what came since the last step was no training
                    step_start = time.perf_counter()
                if stop:
                    return False
        return True

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
        for average in self.state.ema.averages:
            late = average not in measured and not self.until.leaves(self.clock.longest("evaluate"))
            if average not in measured and self.processes.any(late, self.device):
                return False
            figures = measured.get(average) or self.evaluate_average(last, average)
            means[average] = math.exp(np.mean([math.log(max(value, 1e-9)) for value in figures.values()]))
        best = min(means, key=means.__getitem__)
        if self.processes.is_first:
            self.saver.average = best
        self.processes.say(f"last.ckpt is the average of half-life {best}, the best on the development split")
        self.save()
        self.save_preview()
        return True

    def _last_good(self) -> str:
        return f"the last good checkpoint is of step {self.last_good}" if self.last_good else "none was saved yet"

    # ------------------------------------------------------------------------------------------ beside the steps

    def log_losses(self, step: int, progress: Progress) -> None:
        """Read the losses since the last line off the device, check them and write a line of log.jsonl."""
        with self.clock.timed("log"):
            last_good = f"{self._last_good()} ({self.run_dir})"
            line = self.training_step.losses.read(step, learning_rate(step, self.config), last_good)
            if line and self.processes.is_first:
                self.log.write(line)
                progress.note(f"loss {line['loss']:.4f}, {line['images_per_second']:.1f} images/s")

    def evaluate_average(self, step: int, average: Name | None = None) -> dict[str, float]:
        """Evaluate this average of the weights (the first if None) and log the figures."""
        average = next(iter(self.state.ema.averages)) if average is None else average
        self.model.eval()
        with self.clock.timed("evaluate"), self.state.as_sampled(average, self.dtype, self.config.compile):
            figures = self.evaluate(self.model)
        self.model.train()
        if self.processes.is_first:
            seen = step * self.config.batch_size
            self.log.write({"step": step, "images_seen": seen, "ema_half_life": average, **figures})
        return figures

    def save(self) -> None:
        """Write the checkpoint, the file to resume from, and the curves."""
        if self.processes.is_first:
            with self.clock.timed("save"):
                self.saver.save()
                self.last_good = self.state.step

    def save_preview(self) -> None:
        """Write a sheet of samples."""
        if self.processes.is_first:
            with self.clock.timed("preview"):
                self.saver.save_preview()


def usual_layout(device: torch.device, dtype: torch.dtype) -> str:
    """In which order weights of images' networks lie: channels last for GPUs and bfloat16, which are then faster."""
    return "channels_last" if device.type != "cpu" or dtype == torch.bfloat16 else "contiguous"
