"""How a run trains: the flags of train.py, and what follows from them for a step."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from src.common.cli import UserError
from src.common.options import Options
from src.common.processes import Processes
from src.training.memory_layout import LAYOUTS

FALLS = ("linear", "cosine")
FREE = {"free_on_resume": True}  # marks a field that a continued run may change: it changes no weight, or only how many steps


@dataclass
class TrainingConfig(Options):
    """How a run trains. Every field is a flag of train.py and a key of training_config.json."""

    batch_size: int = field(default=32, metadata={"help": "images per step, over all processes", "minimum": 1})
    micro_batch: int = field(
        default=0, metadata={"help": "images a pass: gradients add up to the whole batch; 0 for all", "minimum": 0, **FREE}
    )
    num_iterations: int = field(default=100000, metadata={"help": "steps; 0 saves the untrained model", "minimum": 0, **FREE})
    lr: float = field(default=1e-4, metadata={"help": "learning rate of AdamW after the warm-up", "minimum": 0})
    lr_warmup: int = field(default=500, metadata={"help": "steps over which the learning rate rises from 0", "minimum": 0})
    lr_decay: float = field(
        default=0.0, metadata={"help": "share of the steps at the end over which the learning rate falls to 0", "minimum": 0}
    )
    lr_schedule: str = field(
        default="linear",
        metadata={
            "help": "how it falls over lr_decay of the steps; cosine: over all of them if lr_decay is 0",
            "choices": FALLS,
        },
    )
    weight_decay: float = field(default=0.0, metadata={"help": "of AdamW, times the learning rate; 0 is Adam", "minimum": 0})
    grad_clip: float = field(default=1.0, metadata={"help": "largest norm of the gradient; 0 clips nothing", "minimum": 0})
    ema_half_lives: list[float] = field(
        default_factory=lambda: [0.05],
        metadata={
            "help": "half-lives of weight averages kept side by side, shares of the steps so far; the first is saved as "
            "last.ckpt unless a development split decides; 0 is the latest weights",
            "minimum": 0,
        },
    )
    ema_decay: float = field(
        default=0.0,
        metadata={"help": "of a plain weight average, such as 0.995 per step, kept first; 0: none", "minimum": 0, "below": 1},
    )
    affine: float = field(
        default=0.0,
        metadata={
            "help": "strength of random rotations, shifts and scalings of training images: 1 is up to 10 degrees, 0.07 of the "
            "size and a tenth; 0: none",
            "minimum": 0,
        },
    )
    label_dropout: float = field(
        default=0.1,
        metadata={"help": "share of the labels that a model with classes is not told", "minimum": 0, "maximum": 1},
    )
    flip: bool = field(default=True, metadata={"help": "mirror training images at random"})
    dev_images: int = field(
        default=0, metadata={"help": "training images set aside to measure FID on during the run", "minimum": 0}
    )
    eval_interval: int = field(
        default=0, metadata={"help": "steps between FIDs on the development split; 0: at the end only", "minimum": 0, **FREE}
    )
    log_interval: int = field(default=100, metadata={"help": "steps between lines of log.jsonl", "minimum": 1, **FREE})
    save_interval: int = field(default=10000, metadata={"help": "steps between checkpoints and previews", "minimum": 1, **FREE})
    max_minutes: float = field(
        default=0.0, metadata={"help": "save and stop before so many minutes have passed; 0: no limit", "minimum": 0, **FREE}
    )
    memory_format: str = field(
        default="auto", metadata={"help": "layout of weights; auto measures which is faster", "choices": ("auto", *LAYOUTS)}
    )
    compile: bool = field(default=False, metadata={"help": "torch.compile the network", **FREE})
    tensorboard: bool = field(default=False, metadata={"help": "write the figures for TensorBoard too", **FREE})
    seed: int = field(default=42, metadata={"help": "fixes initial weights, data order and noise", "minimum": 0})

    def changes_from(self, other: dict[str, Any]) -> list[str]:
        """The fields, but for those a continued run may change, in which another run's settings differ from these."""
        return [
            f"--{item.name} {other[item.name]} there, {getattr(self, item.name)} here"
            for item in fields(self)
            if not item.metadata.get("free_on_resume") and item.name in other and other[item.name] != getattr(self, item.name)
        ]


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The learning rate of step number `step` (from 1): a linear warm-up, constant, and a fall, if one is asked for.

    The fall is linear, or half a cosine (Loshchilov and Hutter, arXiv:1608.03983, eq. 5, without restarts).
    """
    share = config.lr_decay or (1.0 if config.lr_schedule == "cosine" else 0.0)
    left = (config.num_iterations - step + 1) / max(share * config.num_iterations, 1) if share else 1.0
    if config.lr_schedule == "cosine":
        left = (1 - math.cos(math.pi * min(left, 1.0))) / 2
    return config.lr * min(1.0, step / max(config.lr_warmup, 1), left)


def micro_batches(config: TrainingConfig, processes: Processes) -> list[slice]:
    """Which rows of each batch this process takes at a time.

    Raises UserError where the batch cannot be divided so.
    """
    if config.batch_size % processes.size:
        raise UserError(f"--batch_size {config.batch_size} cannot be divided over {processes.size} processes")
    rows = processes.share(config.batch_size)
    mine = rows.stop - rows.start
    size = config.micro_batch or mine
    if mine % size:
        whose = "--batch_size" if processes.size == 1 else f"the {processes.size} processes' share of --batch_size"
        raise UserError(f"--micro_batch {size} does not divide {whose} {mine}")
    return [slice(start, start + size) for start in range(rows.start, rows.stop, size)]
