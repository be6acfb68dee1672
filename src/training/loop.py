"""The one training loop. It knows no method by name: a method speaks to it through compute_loss and the hooks of Method."""

import json
import math
import platform
import shlex
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from src.methods._base import Method
from src.training.checkpoint import TrainingState, parameter_count
from src.training.data import Batches
from src.training.ema import EMA
from src.training.log import RunLog, save_preview
from src.utils import UserError, autocast, save_model, seed_everything, write_whole


@dataclass
class TrainingConfig:
    """How a run trains. Every field is a flag of train.py and a key of training_config.json."""

    batch_size: int = field(default=32, metadata={"help": "images a step", "minimum": 1})
    num_iterations: int = field(default=100000, metadata={"help": "steps; 0 saves the untrained model", "minimum": 0})
    lr: float = field(default=1e-4, metadata={"help": "learning rate of Adam after the warm-up", "minimum": 0})
    lr_warmup: int = field(default=500, metadata={"help": "steps over which the learning rate rises from 0", "minimum": 0})
    grad_clip: float = field(default=1.0, metadata={"help": "largest norm of the gradient; 0 clips nothing", "minimum": 0})
    ema_half_life: float = field(
        default=0.05,
        metadata={"help": "half-life of the weight average, a share of the steps so far; 0 for none", "minimum": 0},
    )
    flip: bool = field(default=True, metadata={"help": "mirror training images at random"})
    log_interval: int = field(default=100, metadata={"help": "steps between lines of log.jsonl", "minimum": 1})
    save_interval: int = field(default=10000, metadata={"help": "steps between checkpoints and previews", "minimum": 1})
    seed: int = field(default=42, metadata={"help": "fixes initial weights, data order and noise", "minimum": 0})


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The learning rate of step number `step` (from 1): a linear warm-up, then constant."""
    return config.lr * min(1.0, step / max(config.lr_warmup, 1))


def train(
    model: Method,
    images: np.ndarray,
    config: TrainingConfig,
    model_config: dict[str, Any],
    run_dir: Path,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    resume: bool = False,
) -> None:
    """Train model on images and leave in run_dir what sampling, a later run and a person need.

    That is last.ckpt (averaged weights), model_config.json, resume.pt, log.jsonl, training_curves.png, previews/ and
    training_config.json.

    Args:
        model: on `device` already.
        images: uint8 (N, 3, H, W).
        model_config: the options that build the model anew, saved as model_config.json.
        dtype: precision of the network's matrix products; weights stay float32.
        resume: continue from run_dir/resume.pt.

    Raises:
        UserError: the loss stops being finite; the disk refuses a file; resume.pt does not fit.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    model.to(memory_format=torch.channels_last)
    groups = {name: list(parameters) for name, parameters in model.optim_groups().items()}
    optimizers = {name: torch.optim.Adam(parameters, config.lr, fused=True) for name, parameters in groups.items()}
    state = TrainingState(model, optimizers, EMA(model, config.ema_half_life))
    if resume:
        state.load(run_dir / "resume.pt")
    write_training_config(run_dir, config, model, device, dtype, len(images))
    log = RunLog(run_dir, keep_until=state.step)
    batches = Batches(images, config.batch_size, config.seed, device, config.flip)

    def save() -> None:
        with state.ema.applied():
            save_model(model, run_dir / "last.ckpt", model_config)
            with autocast(device, dtype):
                save_preview(model, images.shape[1:], run_dir / "previews" / f"step_{state.step:07d}.png", config.seed)
        state.save(run_dir / "resume.pt")
        if log.rows:
            log.plot(run_dir / "training_curves.png")

    model.train()
    first_step = state.step + 1
    if first_step > config.num_iterations:
        save()
    window: dict[str, list[torch.Tensor]] = {}
    window_start = time.perf_counter()
    seconds_before = log.rows[-1]["seconds"] if log.rows else 0.0
    run_start = window_start
    progress = tqdm(range(first_step, config.num_iterations + 1), desc="training", unit="step", smoothing=0.05)
    for step in progress:
        for name, value in training_step(state, batches, step, config, groups, dtype).items():
            window.setdefault(name, []).append(value)

        if step % config.log_interval == 0 or step == config.num_iterations:
            figures = {name: torch.stack(values).mean().item() for name, values in window.items()}
            if not all(math.isfinite(value) for value in figures.values()):
                progress.close()
                raise UserError(
                    f"the loss stopped being finite before step {step} ({figures}); the last good checkpoint is of an earlier "
                    f"step in {run_dir}; try a smaller --lr, a longer --lr_warmup or --precision fp32"
                )
            now = time.perf_counter()
            steps = len(next(iter(window.values())))
            speed = steps * config.batch_size / (now - window_start)
            log.write(
                {
                    "step": step,
                    "images_seen": step * config.batch_size,
                    **figures,
                    "lr": learning_rate(step, config),
                    "images_per_second": round(speed, 2),
                    "seconds": round(seconds_before + now - run_start, 2),
                }
            )
            progress.set_postfix(loss=f"{next(iter(figures.values())):.4f}", images_per_s=f"{speed:.1f}")
            window, window_start = {}, now

        if step % config.save_interval == 0 or step == config.num_iterations:
            save()
            window_start = time.perf_counter()


def training_step(
    state: TrainingState,
    batches: Batches,
    step: int,
    config: TrainingConfig,
    groups: dict[str, list[torch.nn.Parameter]],
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """Make step number `step` (from 1): one loss, backward pass and optimizer step for each parameter group.

    All randomness of the step comes from (seed, step), so a resumed run repeats an uninterrupted one. Returns losses and
    gradient norms by name, scalars left on the device.
    """
    model = state.model
    seed_everything(int(np.random.SeedSequence([config.seed, step]).generate_state(1)[0]))
    data = batches[step - 1]
    noise = torch.randn_like(data)
    figures = {}
    for name, optimizer in state.optimizers.items():
        for other in state.optimizers.values():
            other.zero_grad()
        with autocast(data.device, dtype):
            loss = model.compute_loss(data, noise, step=step, total_steps=config.num_iterations, group=name)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(groups[name], config.grad_clip or math.inf)
        for options in optimizer.param_groups:
            options["lr"] = learning_rate(step, config)
        optimizer.step()
        suffix = "" if name == "network" else f"_{name}"
        figures[f"loss{suffix}"] = loss.detach()
        figures[f"grad_norm{suffix}"] = norm.detach()
    model.on_step_end(step, config.num_iterations)
    state.ema.update(step)
    state.step = step
    return figures


def write_training_config(
    run_dir: Path, config: TrainingConfig, model: Method, device: torch.device, dtype: torch.dtype, num_images: int
) -> None:
    """Write training_config.json: the command, its training flags with defaults, and what they ran on."""
    about = {
        "command": shlex.join(sys.argv),
        **asdict(config),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({platform.processor()})",
        "precision": str(dtype).removeprefix("torch."),
        "num_training_images": num_images,
        "num_parameters": parameter_count(model),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    with write_whole(run_dir / "training_config.json") as partial:
        partial.write_text(json.dumps(about, indent=2) + "\n")
