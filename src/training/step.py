"""One training step: a loss, its backward pass and an optimizer's step, for each parameter group of a method."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from src.common.cli import UserError
from src.common.devices import autocast, peak_memory, seed_everything
from src.common.networks import labels_reached
from src.common.noise import step_seed
from src.common.processes import Processes
from src.methods.shared.method import Method
from src.training.batches import Batches
from src.training.config import TrainingConfig, learning_rate, micro_batches
from src.training.writing import TrainingState

LABEL_DRAWS, NOISE_DRAWS = 10**6, 10**6 + 1  # stand where a loss's draws have the number of its parameter group
TIME_BINS = 10
LOST_LABELS = (
    "{} loses the labels: compute_loss is given labels (B,) and has to hand them on to predict and the network, as "
    "**with_labels(labels) does; or train with --no-class_conditional"
)
Clip = Callable[[Sequence[torch.nn.Parameter]], torch.Tensor]  # clips the gradients; their norm before that


class Losses:
    """The losses since the last line of the log: collected on the device without waiting for it, then read and checked.

    seconds_before: how long the run had trained before, where it is continued.
    """

    def __init__(self, model: Method, batch_size: int, device: torch.device, processes: Processes):
        self.batch_size, self.device, self.processes, self.progress = batch_size, device, processes, model.progress
        self.losses: dict[str, list[torch.Tensor]] = {}
        self.norms: dict[str, list[torch.Tensor]] = {}
        self.time_sums = torch.zeros(2, TIME_BINS, device=device)  # of the losses, of their number
        self.run_start = self.window_start = time.perf_counter()
        self.seconds_before = 0.0

    def add_step(self, group: str, loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Take the loss and the gradient's norm of a parameter group at one step."""
        suffix = "" if group == "network" else f"_{group}"
        self.losses.setdefault(f"loss{suffix}", []).append(loss)
        self.norms.setdefault(f"grad_norm{suffix}", []).append(norm.detach())

    def add_losses(self, t: torch.Tensor, losses: torch.Tensor) -> None:
        """Add up the losses (B,) by the tenth of the way from noise to data that their times t (B,) lie in."""
        bins = (self.progress(t.detach().float()) * TIME_BINS).long().clamp(0, TIME_BINS - 1)
        values = torch.stack([losses.detach().float(), torch.ones_like(losses, dtype=torch.float32)])
        self.time_sums.index_add_(1, bins, values)

    def restart_clock(self) -> None:
        """Measure the speed from now on: what came since the last line was no training."""
        self.window_start = time.perf_counter()

    def read(self, step: int, learning_rate: float, last_good: str) -> dict[str, Any] | None:
        """The line of the log after this step, of all processes; None where no step was made since the last one.

        last_good: what is said of the last checkpoint in the error. Raises UserError where a loss is not finite.
        """
        if not self.losses:
            return None
        losses = {name: torch.stack(values) for name, values in self.losses.items()}
        by_time = self.time_sums.clone()
        self.processes.sum([*losses.values(), by_time])
        figures = {name: values.tolist() for name, values in losses.items()}
        norms = {name: torch.stack(values).mean().item() for name, values in self.norms.items()}
        steps = len(next(iter(figures.values())))
        for index in range(steps):
            bad = {name: values[index] for name, values in figures.items() if not math.isfinite(values[index])}
            if bad:
                raise UserError(
                    f"the loss was not finite at step {step - steps + 1 + index} ({bad}); {last_good}; "
                    "try a smaller --lr, a longer --lr_warmup, a smaller --grad_clip or --precision fp32"
                )
        now, memory = time.perf_counter(), peak_memory(self.device)
        sums, counts = by_time.tolist()
        line = {
            "step": step,
            "images_seen": step * self.batch_size,
            **{name: sum(values) / steps for name, values in figures.items()},
            **norms,
            "loss_by_time": [total / n if n else None for total, n in zip(sums, counts, strict=True)],
            "lr": learning_rate,
            "images_per_second": float(f"{steps * self.batch_size / (now - self.window_start):.4g}"),
            "memory_mib": memory and round(memory / 2**20),
            "seconds": round(self.seconds_before + now - self.run_start, 2),
        }
        self.losses, self.norms, self.window_start = {}, {}, now
        self.time_sums.zero_()
        return line


class TrainingStep:
    """Makes the steps of a run, each by its number.

    All randomness of a step comes from (seed, step), so a resumed run repeats an uninterrupted one. Noise and dropped labels
    are drawn for the whole batch; what a loss draws, for the rows that it is given, from (seed, step, first of these rows).

    Args:
        batches: where data come from: Batches, or what has its methods.
        clip: clips the gradients of a parameter group; by default the norm of all of them, to config.grad_clip.
    """

    def __init__(
        self,
        state: TrainingState,
        batches: Batches,
        config: TrainingConfig,
        dtype: torch.dtype,
        processes: Processes,
        clip: Clip | None = None,
    ):
        self.state, self.batches, self.config, self.dtype, self.processes = state, batches, config, dtype, processes
        self.device = state.model.device
        self.parts = micro_batches(config, processes)
        self.groups = {name: list(parameters) for name, parameters in state.model.optim_groups().items()}
        self.clip = clip or (lambda parameters: torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip or math.inf))
        self.losses = Losses(state.model, config.batch_size, self.device, processes)
        self.first = state.step + 1

    def __call__(self, step: int) -> None:
        """Make step number `step` (from 1). Nothing waits for the device."""
        config, state, model = self.config, self.state, self.state.model
        parts = self._batch(step)
        first_labels = step == self.first and any(labels.any() for *_, kwargs in parts for labels in kwargs.values())
        for index, (name, optimizer) in enumerate(state.optimizers.items()):
            for other in state.optimizers.values():
                other.zero_grad()
            total = torch.zeros((), device=self.device)
            for rows, data, noise, label_kwargs in parts:
                share = (rows.stop - rows.start) / config.batch_size
                seed_everything(step_seed(config.seed, step, index, rows.start))
                with autocast(self.device, self.dtype):
                    loss_kwargs = {"step": step, "total_steps": config.num_iterations, "group": name, **label_kwargs}
                    loss = model.compute_loss(data, noise, **loss_kwargs)
                (loss * share).backward()
                total += loss.detach() * share
            if first_labels and not labels_reached(model.network, self.groups[name]):
                raise UserError(LOST_LABELS.format(type(model).__name__))
            self.processes.sum_gradients(self.groups[name])
            norm = self.clip(self.groups[name])
            for options in optimizer.param_groups:
                options["lr"] = learning_rate(step, config) * model.lr_scale(name)
            optimizer.step()
            self.losses.add_step(name, total, norm)
        model.on_step_end(step, config.num_iterations)
        state.ema.update(step)
        state.step = step

    def _batch(self, step: int) -> list[tuple[slice, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]:
        """This process's micro-batches of the step: their rows of the whole batch, data and noise (rows, ...), and labels.

        label_dropout of the labels, (rows,), are 0.
        """
        number, config, batches = step - 1, self.config, self.batches
        if not batches.has_noise:
            seed_everything(step_seed(config.seed, step, NOISE_DRAWS))
            noise = torch.randn(config.batch_size, *batches.sample_shape, device=self.device)
        if batches.has_labels:
            draws = torch.Generator().manual_seed(step_seed(config.seed, step, LABEL_DRAWS))
            dropped = (torch.rand(config.batch_size, generator=draws) < config.label_dropout).to(self.device)
        return [
            (
                rows,
                batches.rows(number, rows),
                batches.noise(number, rows) if batches.has_noise else noise[rows],
                {"labels": batches.labels(number, rows).masked_fill(dropped[rows], 0)} if batches.has_labels else {},
            )
            for rows in self.parts
        ]
