"""How a run trains: the flags of train.py about it, their presets, and what follows from them for a step."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from src.common.cli import UserError, number
from src.common.options import Options, Preset, in_turn
from src.common.processes import Processes

FALLS = ("linear", "cosine")
FREE = {"free_on_resume": True}  # marks a field that a continued run may change: it changes no weight, or only how many steps
DECAY = "decay_"  # begins the name of a plain average: decay_0.995
OLD_FLAGS = {  # of earlier releases -> what is given instead
    "--drop_longest": "--pairs FOLDER SHARE",
    "--lr_schedule": "--lr_decay SHARE cosine",
    "--ema_decay": "--ema_half_lives decay_0.995 ...",
    "--eval_interval": "--dev_images IMAGES STEPS",
    "--tensorboard": "--log_interval STEPS tensorboard",
    "--memory_format": "chosen by the device and the precision: leave it out",
    "--list_methods": "--method list",
}


def read_lr_decay(words: Sequence[str]) -> dict[str, Any]:
    """`0.3`, `0.3 cosine` or `cosine` as fields of TrainingConfig."""
    if list(words) == ["cosine"]:
        return {"lr_decay": 0.0, "lr_schedule": "cosine"}
    return {"lr_schedule": "linear", **in_turn(lr_decay=number(float, 0), lr_schedule=str)(words)}


def read_averages(words: Sequence[str]) -> dict[str, Any]:
    """Half-lives and decay_D as fields of TrainingConfig."""
    decays = [number(float, 0)(word.removeprefix(DECAY)) for word in words if word.startswith(DECAY)]
    half_lives = [number(float, 0)(word) for word in words if not word.startswith(DECAY)]
    if len(decays) > 1:
        raise ValueError(f"expected one {DECAY}D at most, got {' '.join(words)}")
    return {"ema_decay": sum(decays, 0.0), **({"ema_half_lives": half_lives} if half_lives else {})}


def read_tensorboard(word: str) -> bool:
    if word != "tensorboard":
        raise ValueError(f"expected the word tensorboard, got {word!r}")
    return True


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
        default=0.0,
        metadata={
            "help": "share of the steps at the end over which the learning rate falls to 0, in a line; SHARE cosine: in half a "
            "cosine; cosine: so over all steps",
            "minimum": 0,
            "metavar": ("SHARE", "cosine"),
            "words": read_lr_decay,
        },
    )
    lr_schedule: str = field(default="linear", metadata={"choices": FALLS, "of": "lr_decay"})
    weight_decay: float = field(default=0.0, metadata={"help": "of AdamW, times the learning rate; 0 is Adam", "minimum": 0})
    grad_clip: float = field(default=1.0, metadata={"help": "largest norm of the gradient; 0 clips nothing", "minimum": 0})
    ema_half_lives: list[float] = field(
        default_factory=lambda: [0.05],
        metadata={
            "help": "half-lives of weight averages kept side by side, shares of the steps so far; the first is saved as "
            "last.ckpt unless a development split decides; 0 is the latest weights; decay_0.995 is a plain average, kept first",
            "minimum": 0,
            "metavar": "HALF_LIFE",
            "words": read_averages,
        },
    )
    ema_decay: float = field(default=0.0, metadata={"minimum": 0, "below": 1, "of": "ema_half_lives"})
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
        metadata={"help": "share of the labels that are replaced by 0, no class", "minimum": 0, "maximum": 1},
    )
    flip: bool = field(default=True, metadata={"help": "mirror training images at random"})
    dev_images: int = field(
        default=0,
        metadata={
            "help": "training images set aside to measure FID on, at the end, and every so many STEPS where that is given",
            "minimum": 0,
            "metavar": ("IMAGES", "STEPS"),
            "words": in_turn(dev_images=number(int, 0), eval_interval=number(int, 0)),
        },
    )
    eval_interval: int = field(default=0, metadata={"minimum": 0, "of": "dev_images", **FREE})
    log_interval: int = field(
        default=100,
        metadata={
            "help": "steps between lines of log.jsonl; with the word tensorboard they are written for TensorBoard too",
            "minimum": 1,
            "metavar": ("STEPS", "tensorboard"),
            "words": in_turn(log_interval=number(int, 1), tensorboard=read_tensorboard),
            **FREE,
        },
    )
    tensorboard: bool = field(default=False, metadata={"of": "log_interval", **FREE})
    save_interval: int = field(default=10000, metadata={"help": "steps between checkpoints and previews", "minimum": 1, **FREE})
    max_minutes: float = field(
        default=0.0, metadata={"help": "save and stop before so many minutes have passed; 0: no limit", "minimum": 0, **FREE}
    )
    compile: bool = field(default=False, metadata={"help": "torch.compile the network", **FREE})
    seed: int = field(default=42, metadata={"help": "fixes initial weights, data order and noise", "minimum": 0})

    def validate(self) -> None:
        super().validate()
        if self.dev_images == 1:
            raise ValueError("--dev_images 1: FID needs at least two images")

    def changes_from(self, other: dict[str, Any]) -> list[str]:
        """The fields, but for those a continued run may change, in which another run's settings differ from these."""
        return [
            f"--{item.metadata.get('of', item.name)} {other[item.name]} there, {getattr(self, item.name)} here"
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


SECOND = {"dev_images": "eval_interval", "lr_decay": "lr_schedule"}  # fields that are a second word of another one's flag


def describe_preset(name: str, preset: Preset, used: Mapping[str, Any]) -> str:
    """What a preset is, its flags as they are used, and where others were given, the preset's own: a line each."""
    names = [flag for flag in preset.flags if flag not in SECOND.values()]
    own, given = ({flag: as_typed(flag, preset.flags, values) for flag in names} for values in (preset.flags, used))
    lines = [f"preset {name}: {preset.about}", f"  {' '.join(given.values())}"]
    if others := [own[flag] for flag in names if own[flag] != given[flag]]:
        lines.append(f"  given beside it, instead of {' '.join(others)}")
    return "\n".join(lines)


def as_typed(name: str, flags: Collection[str], values: Mapping[str, Any]) -> str:
    """A flag with its value, and with the second word where that is one of the flags, as it is typed."""
    if isinstance(values[name], bool):
        return f"--{name}" if values[name] else f"--no-{name}"
    words = [values[flag] for flag in (name, SECOND.get(name)) if flag in flags]
    return " ".join(["--" + name, *(str(item) for word in words for item in (word if isinstance(word, list) else [word]))])


TWELFTH = {"ch": 32, "ch_mult": [1, 2, 4, 4], "attn": [2], "num_res_blocks": 2}  # networks of so much of a challenge's size
FIFTIETH = {"ch": 16, "ch_mult": [1, 2, 4, 4], "attn": [3], "num_res_blocks": 1, "dropout": 0.0}
PRESETS = {  # of train.py's flags, for every challenge that has none of that name itself
    "small": Preset(
        "a network of 1/50 of the challenge's size that learns toon faces on two CPU cores in minutes",
        FIFTIETH
        | {"batch_size": 8, "num_iterations": 750, "lr": 1e-3, "lr_warmup": 50, "lr_decay": 0.5, "ema_half_lives": [0.02]}
        | {"log_interval": 20, "save_interval": 375},
    ),
    "laptop": Preset(
        "a network of 1/12 of the challenge's size for an evening on a laptop: to try a method, not to hand in",
        TWELFTH
        | {"batch_size": 16, "num_iterations": 20000, "lr": 3e-4}
        | {"log_interval": 50, "save_interval": 1000, "auto_resume": True},
    ),
    "colab-t4": Preset(
        "the challenge's network on a 16 GB GPU without bfloat16, in sessions that end without warning",
        {"batch_size": 32, "micro_batch": 16, "precision": "fp32", "num_iterations": 60000, "lr": 2e-4, "lr_warmup": 1000}
        | {"save_interval": 500, "auto_resume": True},
    ),
    "single-gpu": Preset(
        "the challenge's network on one large GPU, with weight averages chosen on a development split",
        {"batch_size": 128, "precision": "bf16", "num_iterations": 100000, "lr": 2e-4, "lr_warmup": 1000}
        | {"ema_half_lives": [0.05, 0.01, 0.1], "dev_images": 500, "eval_interval": 10000}
        | {"save_interval": 2500, "auto_resume": True},
    ),
}
