"""The loop that optimises images, which knows no loss by name: seeded step by step, clipped, logged and resumable."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from src.common.cli import UserError
from src.common.files import load_torch, save_torch
from src.common.noise import step_seed
from src.common.options import Options
from src.common.progress import Progress
from src.score_distillation.loss import Loss

WARMUP = 100  # steps
DECAY_SHARE = 1.5  # the cosine of the learning rate ends after so many times the steps
CLIP = 1.0  # the largest norm of an image's gradient
Notice = Callable[[int, float, torch.Tensor], None]


@dataclass
class OptimizeOptions(Options):
    steps: int = field(default=500, metadata={"help": "1000 with --lr 0.005 is prescribed for sdi", "minimum": 1})
    lr: float = field(default=0.01, metadata={"help": "of AdamW: rises for 100 steps, then falls as a cosine", "above": 0})
    log_step: int = field(default=25, metadata={"help": "steps between two images, lines of the log and savings", "minimum": 1})
    particles: int = field(default=1, metadata={"help": "images that are optimised together", "minimum": 1})
    seed: int = field(default=42, metadata={"help": "fixes everything that is drawn", "minimum": 0})


def optimize(
    loss: Loss,
    options: OptimizeOptions,
    resume: Path | None = None,
    notice: Notice | None = None,
    title: str | None = None,
) -> torch.Tensor:
    """Optimise latents from standard normal noise; the last ones, float32 (particles, C, H, W).

    All randomness of a step comes from (seed, step), so that a continued run ends where an uninterrupted one does.

    Args:
        resume: the file that the run is continued from where there is one, and that is written every log_step steps.
        notice: called every log_step steps with the step, the loss, which is half the mean square of the gradient, and the
            latents.
        title: of a progress bar; None shows none.

    Raises UserError where the gradient stops being finite, or the file is damaged.
    """
    prior = loss.prior
    generator = torch.Generator().manual_seed(step_seed(options.seed, 0))
    x = torch.randn(options.particles, *prior.shape, generator=generator).to(prior.device).requires_grad_()
    optimizer = torch.optim.AdamW([x], options.lr, weight_decay=0.0)
    done = 0
    if resume is not None and resume.is_file():
        saved = load_torch(resume)
        done, x.data = saved["step"], saved["x"].to(x)
        optimizer.load_state_dict(saved["optimizer"])
        loss.load_state_dict(saved["loss"])
        print(f"continued after step {done}")
    progress = Progress(options.steps, title, "step", done)
    for step in progress.each(range(done + 1, options.steps + 1)):
        generator.manual_seed(step_seed(options.seed, step))
        gradient = loss.gradient(x.detach(), step, options.steps, generator)
        x.grad = clip_each(gradient, CLIP)
        optimizer.param_groups[0]["lr"] = learning_rate(step, options)
        optimizer.step()
        if step % options.log_step == 0 or step == options.steps:
            value = gradient.square().mean().item() / 2
            if not math.isfinite(value):
                raise UserError(f"the gradient is not finite in step {step}: give a lower --lr, or --precision fp32")
            progress.note(f"loss {value:.4f}")
            if resume is not None:
                state = {"step": step, "x": x.detach(), "optimizer": optimizer.state_dict(), "loss": loss.state_dict()}
                save_torch(state, resume)
            if notice is not None:
                notice(step, value, x.detach())
    return x.detach()


def learning_rate(step: int, options: OptimizeOptions) -> float:
    """Of step number `step` (from 1): rises evenly for WARMUP steps, then falls as a cosine that ends after 1.5 runs."""
    if step <= WARMUP:
        return options.lr * step / WARMUP
    after = (step - WARMUP) / max(DECAY_SHARE * options.steps - WARMUP, 1)
    return options.lr * (1 + math.cos(math.pi * min(after, 1.0))) / 2


def clip_each(gradient: torch.Tensor, most: float) -> torch.Tensor:
    """The gradient (B, ...), that of each image scaled down to this norm where it is larger."""
    norms = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
    return gradient * (most / norms).clamp(max=1.0).reshape(-1, *[1] * (gradient.ndim - 1))
