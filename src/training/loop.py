"""The one training loop. It knows no method by name: a method speaks to it through compute_loss and the hooks of Method."""

import contextlib
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from src.common.checkpoints import save_model
from src.common.cli import UserError
from src.common.devices import autocast, peak_memory, precision_name, seed_everything
from src.common.files import write_whole
from src.methods._base import Method
from src.training.checkpoint import RESUME, TrainingState, parameter_count, read_resume
from src.training.config import TrainingConfig, learning_rate, micro_batches
from src.training.data import Batches
from src.training.distributed import Team
from src.training.draws import DrawAsOneBatch
from src.training.ema import EMA, measured_fids
from src.training.layout import apply_layout, faster_layout
from src.training.log import RunLog, save_preview
from src.training.signals import stop_signals

TIME_BINS = 10
EARLY_PREVIEWS = frozenset(
    2**k for k in range(5, 14)
)  # steps 32, 64, ..., 8192: early phases, of which a write-up shows images
Evaluate = Callable[[Method], dict[str, float]]  # the model as it is -> named figures, e.g. {"fid_nfe1": 41.5}


@dataclass
class Trainer:
    """Trains model on images and leaves in run_dir what sampling, a later run and a person need.

    That is last.ckpt (averaged weights), model_config.json, resume.pt, log.jsonl, training_curves.png, previews/ and
    training_config.json, and NAME.ckpt for each of the method's milestones. SIGTERM and Ctrl-C save and end the run early.

    Args:
        model: on `device` already.
        images: uint8 (N, 3, H, W), or floating-point as in [-1, 1].
        model_config: the options that build the model anew, saved as model_config.json.
        dtype: precision of the network's matrix products; weights stay float32.
        team: the processes that share each batch; this one alone if not given.
        evaluate: measures the averaged model every eval_interval steps, and each average at the end, where the one of the
            lowest geometric mean becomes last.ckpt.
        deadline: the time.monotonic() by which all must be saved.
        about: further entries of training_config.json.
        noise_seeds: int64 (N,), where each image has noise of its own: the seed that draw_noise makes it from. Without, every
            step draws fresh noise.
    """

    model: Method
    images: np.ndarray
    config: TrainingConfig
    model_config: dict[str, Any]
    run_dir: Path
    device: torch.device
    dtype: torch.dtype = torch.float32
    team: Team = field(default_factory=Team)
    evaluate: Evaluate | None = None
    deadline: float = math.inf
    about: dict[str, Any] = field(default_factory=dict)
    noise_seeds: np.ndarray | None = None

    def __post_init__(self) -> None:
        config = self.config
        self.image_shape = self.images.shape[1:]
        self.parts = micro_batches(config, self.team)
        self.batches = Batches(self.images, config.batch_size, config.seed, self.device, config.flip, self.noise_seeds)
        self.milestones = self.model.milestones(config.num_iterations)
        self.groups = {name: list(parameters) for name, parameters in self.model.optim_groups().items()}
        self.window: dict[str, list[torch.Tensor]] = {}
        self.norms: dict[str, list[torch.Tensor]] = {}
        self.time_sums = torch.zeros(2, TIME_BINS, device=self.device)  # of the losses, of their number
        self.half_life: float | None = None  # of the average that is saved; None: the first
        self.longest = {"save": 0.0, "preview": 0.0, "measure": 0.0}  # seconds that each took so far
        self.last_good = 0  # the step of the last checkpoint
        self.stopped_by = 0  # the signal that ended the run before its last step

    # --------------------------------------------------------------------------------------------------- the run

    def begin(self, resume: bool = False) -> None:
        """Make ready for the first step, or for the one after run_dir/resume.pt was written."""
        config = self.config
        saved = read_resume(self.run_dir) if resume else None
        layout = self._layout(saved)
        apply_layout(self.model, layout)
        optimizers = {
            name: torch.optim.Adam(parameters, config.lr, self.model.betas(name), fused=True)
            for name, parameters in self.groups.items()
        }
        settings = {**asdict(config), "model_config": self.model_config, "layout": layout}
        self.state = TrainingState(self.model, optimizers, EMA(self.model, config.ema_half_lives), settings=settings)
        if saved:
            self.state.load(saved, self.run_dir / RESUME)
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
        if resume and self.state.step >= config.num_iterations and (self.run_dir / "last.ckpt").is_file():
            self.team.say(f"{self.run_dir} has made its {self.state.step} steps already")
            if not self.evaluate:
                return True
        if self.team.is_first:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            for left_over in self.run_dir.glob(".*.partial"):
                left_over.unlink(missing_ok=True)
            self._write_training_config()
            self.log = RunLog(self.run_dir, self.state.step, config.tensorboard)
            self.seconds_before = self.log.seconds()
        self.model.on_losses = self._collect_losses
        try:
            with stop_signals() as stopped:
                finished = self._steps(stopped)
                self.stopped_by = stopped()
        finally:
            self.model.on_losses = None
        if finished:
            finished = self._finish()
        else:
            self._save(preview=False)
        if not finished:
            self.team.say(
                f"stopped after step {self.state.step} of {config.num_iterations}, everything saved: continue it with "
                f"--resume {self.run_dir}"
            )
        return finished

    def _layout(self, saved: dict[str, Any] | None) -> str:
        """The layout a resumed run had, the one asked for, or the faster one."""
        if self.config.memory_format != "auto":
            return self.config.memory_format
        if saved:
            return saved["settings"]["layout"]
        size = self.parts[0].stop - self.parts[0].start
        mine = faster_layout(self.model.network, self.image_shape, size, self.dtype) if self.team.is_first else None
        return self.team.first_says(mine)

    def _steps(self, stopped: Callable[[], int]) -> bool:
        """Make the steps that are left; False if told to stop before the last."""
        config, first = self.config, self.state.step + 1
        self.run_start = self.window_start = step_start = time.perf_counter()
        slowest = 0.0
        steps = range(first, config.num_iterations + 1)
        with tqdm(
            steps,
            desc="training",
            unit="step",
            smoothing=0.05,
            initial=first - 1,
            total=config.num_iterations,
            disable=not self.team.is_first,
        ) as progress:
            for step in progress:
                self.training_step(step)
                last = step == config.num_iterations
                logs, saves = step % config.log_interval == 0, step % config.save_interval == 0
                evaluates = bool(self.evaluate and config.eval_interval and step % config.eval_interval == 0)
                milestone = self.milestones.get(step)
                now = time.perf_counter()
                slowest, step_start = max(slowest, now - step_start), now
                stop = False
                early = step in EARLY_PREVIEWS and step < config.save_interval and not last
                if not last and (self.team.size == 1 or logs or saves or evaluates or early):
                    due = {"save": saves or milestone, "preview": saves or early, "measure": evaluates}
                    stop = self.team.any(bool(stopped()) or not self._time_for(2 * slowest, due), self.device)
                if logs or saves or evaluates or milestone or early or stop or last:
                    self._report(step, progress)
                if evaluates and not (last or stop):
                    self._measure(step)
                if milestone:
                    self._save_model(milestone)
                if saves and not (last or stop):
                    self._save()
                if early and not stop:
                    self._save_preview()
                if evaluates or saves or milestone or early:
                    self.window_start = step_start = time.perf_counter()
                if stop:
                    return False
        return True

    def _finish(self) -> bool:
        """The last FIDs, the choice among the averages, and the last files. False if the deadline came before the choice."""
        last = self.config.num_iterations
        if self.evaluate and last:
            self._save(preview=False)  # whatever happens while it is measured, the steps are made
            measured = measured_fids(self.run_dir, last) if self.team.is_first else None  # by the run that this one continues
            measured = self.team.first_says(measured)
            scores = {}
            for half_life in self.state.ema.averages:
                if half_life not in measured and self.team.any(not self._time_for(0, {"measure": True}), self.device):
                    return False
                figures = measured.get(half_life) or self._measure(last, half_life)
                scores[half_life] = math.exp(np.mean([math.log(max(value, 1e-9)) for value in figures.values()]))
            self.half_life = min(scores, key=scores.__getitem__)
            self.team.say(f"last.ckpt is the average of half-life {self.half_life:g}, the best on the development split")
        self._save()
        return True

    def _time_for(self, seconds: float, due: dict[str, Any]) -> bool:
        """Whether so many seconds, then what is due (true in the dict) and a last save end before the deadline."""
        seconds += sum(self.longest[name] for name, value in due.items() if value)
        return time.monotonic() + seconds + (self.longest["save"] or 1 + self._state_bytes() / 50e6) <= self.deadline

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Remember how long the block takes, if it took longer than ever."""
        start = time.perf_counter()
        yield
        self.longest[name] = max(self.longest[name], time.perf_counter() - start)

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
            for rows, data, noise_here in parts:
                share = (rows.stop - rows.start) / whole
                seed_everything(step_seed(config.seed, step, index))
                draws = contextlib.nullcontext() if share == 1 else DrawAsOneBatch(rows, whole)
                with draws, autocast(self.device, self.dtype):
                    loss = model.compute_loss(data, noise_here, step=step, total_steps=config.num_iterations, group=name)
                (loss * share).backward()
                total += loss.detach() * share
            self.team.sum_gradients(self.groups[name])
            norm = torch.nn.utils.clip_grad_norm_(self.groups[name], config.grad_clip or math.inf)
            for options in optimizer.param_groups:
                options["lr"] = learning_rate(step, config) * model.lr_scale(name)
            optimizer.step()
            suffix = "" if name == "network" else f"_{name}"
            self.window.setdefault(f"loss{suffix}", []).append(total)
            self.norms.setdefault(f"grad_norm{suffix}", []).append(norm.detach())
        model.on_step_end(step, config.num_iterations)
        self.state.ema.update(step)
        self.state.step = step

    def _batch(self, step: int) -> list[tuple[slice, torch.Tensor, torch.Tensor]]:
        """This process's micro-batches of the step: their rows of the whole batch, data and noise (rows, 3, H, W)."""
        number = step - 1
        if self.noise_seeds is not None:
            return [(rows, self.batches.rows(number, rows), self.batches.noise(number, rows)) for rows in self.parts]
        seed_everything(step_seed(self.config.seed, step))
        noise = torch.randn(self.config.batch_size, *self.image_shape, device=self.device)
        return [(rows, self.batches.rows(number, rows), noise[rows]) for rows in self.parts]

    def _collect_losses(self, t: torch.Tensor, losses: torch.Tensor) -> None:
        """Add up the losses (B,) by the tenth of the way from noise to data that their times t (B,) lie in."""
        bins = (self.model.progress(t.detach().float()) * TIME_BINS).long().clamp(0, TIME_BINS - 1)
        values = torch.stack([losses.detach().float(), torch.ones_like(losses, dtype=torch.float32)])
        self.time_sums.index_add_(1, bins, values)

    # ------------------------------------------------------------------------------------------ what the run tells

    def _report(self, step: int, progress: tqdm) -> None:
        """Read the losses since the last report off the device, check them and write a line of log.jsonl."""
        if not self.window:
            return
        losses = {name: torch.stack(values) for name, values in self.window.items()}
        by_time = self.time_sums.clone()
        self.team.sum([*losses.values(), by_time])
        figures = {name: values.tolist() for name, values in losses.items()}
        norms = {name: torch.stack(values).mean().item() for name, values in self.norms.items()}
        steps = len(next(iter(figures.values())))
        for index in range(steps):
            bad = {name: values[index] for name, values in figures.items() if not math.isfinite(values[index])}
            if bad:
                good = f"the last good checkpoint is of step {self.last_good}" if self.last_good else "none was saved yet"
                raise UserError(
                    f"the loss was not finite at step {step - steps + 1 + index} ({bad}); {good} ({self.run_dir}); "
                    "try a smaller --lr, a longer --lr_warmup, a smaller --grad_clip or --precision fp32"
                )
        now, memory = time.perf_counter(), peak_memory(self.device)
        speed = steps * self.config.batch_size / (now - self.window_start)
        sums, counts = by_time.tolist()
        if self.team.is_first:
            self.log.write(
                {
                    "step": step,
                    "images_seen": step * self.config.batch_size,
                    **{name: sum(values) / steps for name, values in figures.items()},
                    **norms,
                    "loss_by_time": [total / n if n else None for total, n in zip(sums, counts, strict=True)],
                    "lr": learning_rate(step, self.config),
                    "images_per_second": float(f"{speed:.4g}"),
                    "memory_mib": memory and round(memory / 2**20),
                    "seconds": round(self.seconds_before + now - self.run_start, 2),
                }
            )
            progress.set_postfix(loss=f"{sum(figures['loss']) / steps:.4f}", images_per_s=f"{speed:.1f}", refresh=False)
        self.window, self.norms, self.window_start = {}, {}, now
        self.time_sums.zero_()

    @contextlib.contextmanager
    def _as_sampled(self, half_life: float | None) -> Iterator[None]:
        """Inside the block the model is as it will be sampled: averaged weights, uncompiled, in the run's precision."""
        eager = torch.compiler.set_stance("force_eager") if self.config.compile else contextlib.nullcontext()
        with self.state.ema.applied(half_life), autocast(self.device, self.dtype), eager:
            yield

    def _measure(self, step: int, half_life: float | None = None) -> dict[str, float]:
        """Evaluate the average of this half-life (the first if None) and log the figures."""
        half_life = next(iter(self.state.ema.averages)) if half_life is None else half_life
        self.model.eval()
        with self._timed("measure"), self._as_sampled(half_life):
            figures = self.evaluate(self.model)
        self.model.train()
        if self.team.is_first:
            self.log.write({"step": step, "images_seen": step * self.config.batch_size, "ema_half_life": half_life, **figures})
        return figures

    def _save(self, preview: bool = True) -> None:
        """Write the checkpoint, the file to resume from, a preview and the curves."""
        if not self.team.is_first:
            return
        with self._timed("save"):
            self._save_model("last")
            self.state.save(self.run_dir)
            self.last_good = self.state.step
            if self.log.rows:
                self.log.plot(self.run_dir / "training_curves.png")
        if preview:
            self._save_preview()

    def _save_preview(self) -> None:
        """Write a sheet of samples as previews/step_NNNNNNN.png."""
        if self.team.is_first:
            path = self.run_dir / "previews" / f"step_{self.state.step:07d}.png"
            with self._timed("preview"), self._as_sampled(self.half_life):
                save_preview(self.model, self.image_shape, path, self.config.seed)

    def _save_model(self, name: str) -> None:
        """Write the averaged model as name.ckpt."""
        if self.team.is_first:
            with self._as_sampled(self.half_life):
                save_model(self.model, self.run_dir / f"{name}.ckpt", self.model_config)

    def _state_bytes(self) -> int:
        """About the size of resume.pt and last.ckpt: weights, two moments, the averages."""
        return 4 * parameter_count(self.model) * (4 + len(self.state.ema.averages))

    def _write_training_config(self) -> None:
        """Write training_config.json: the command, its training flags with defaults, and what they ran on."""
        device = self.device
        entries = {
            "command": shlex.join(sys.argv),
            **asdict(self.config),
            **self.about,
            "layout": self.state.settings["layout"],
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({platform.processor()})",
            "processes": self.team.size,
            "precision": precision_name(self.dtype),
            "image_shape": list(self.image_shape),
            "num_training_images": len(self.batches.images),
            "num_parameters": parameter_count(self.model),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        with write_whole(self.run_dir / "training_config.json") as partial:
            partial.write_text(json.dumps(entries, indent=2) + "\n")


def step_seed(*numbers: int) -> int:
    """One seed out of several numbers: the run's seed and the step for data noise, and the group's number for its loss."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
