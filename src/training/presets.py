"""Named sets of train.py's flags."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    about: str
    flags: dict[str, Any]


PRESETS = {
    "small": Preset(
        "a network of 1/50 of the challenge's size that learns toon faces on two CPU cores in minutes",
        {
            "ch": 16,
            "ch_mult": [1, 2, 4, 4],
            "attn": [3],
            "num_res_blocks": 1,
            "dropout": 0.0,
            "batch_size": 8,
            "num_iterations": 850,
            "lr": 1e-3,
            "lr_warmup": 50,
            "log_interval": 20,
            "save_interval": 425,
        },
    ),
}
