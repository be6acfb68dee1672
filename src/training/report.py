"""The losses of a run between two lines of its log: collected on the device without waiting for it, then read and checked."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from src.common.cli import UserError
from src.common.devices import peak_memory
from src.common.processes import Processes

TIME_BINS = 10


class LossReport:
    """Collects what each step gives and makes a line of log.jsonl of it.

    Args:
        batch_size: images per step, of all processes.
        progress: times t (B,) -> how far from noise (0) to data (1) they are.
        seconds_before: how long the run had trained before, where it is continued.
    """

    def __init__(
        self,
        batch_size: int,
        device: torch.device,
        processes: Processes,
        progress: Callable[[torch.Tensor], torch.Tensor],
        seconds_before: float = 0.0,
    ):
        self.batch_size, self.device, self.processes, self.progress = batch_size, device, processes, progress
        self.losses: dict[str, list[torch.Tensor]] = {}
        self.norms: dict[str, list[torch.Tensor]] = {}
        self.time_sums = torch.zeros(2, TIME_BINS, device=device)  # of the losses, of their number
        self.run_start = self.window_start = time.perf_counter()
        self.seconds_before = seconds_before

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
