"""Toon faces: cartoon heads drawn by code. For demos and tests: no download, no account."""

from functools import partial
from pathlib import Path

import numpy as np

from src.challenges.shared.challenge import register
from src.challenges.shared.images import ImageChallenge
from src.challenges.shared.unet import SMALL_UNET, ClassUNet
from src.challenges.toon import drawing
from src.common.options import Preset
from src.datasets.images import cached_array

SPLITS = {  # size -> number of images, seed
    64: {"train": (4000, 1), "val": (300, 2)},
    32: {"train": (10000, 1), "val": (300, 2)},
}


def load_toons(split: str, root: str | Path, size: int) -> tuple[np.ndarray, None]:
    """All toon faces of a split, uint8 (N, 3, size, size). They are drawn, once: root is not read.

    Those of 32x32 are the means of 2x2 pixels of those of 64x64, and there are more of them.
    """
    count, seed = SPLITS[size][split]

    def drawn() -> np.ndarray:
        print(f"drawing {count:,} toon faces, once", flush=True)
        return drawing.reduced(drawing.toon_faces(count, seed), size)

    return cached_array(["toon", drawing.VERSION, count, seed, size], drawn), None


TOON = register(
    ImageChallenge(
        name="toon",
        about="toon faces at 64x64, drawn by code",
        shape=(3, 64, 64),
        load=partial(load_toons, size=64),
        nfe=(1, 2, 4),
        num_samples=1000,
    )
)
TOON32 = register(
    ImageChallenge(
        name="toon32",
        about="toon faces at 32x32 and a small U-Net, for a laptop",
        shape=(3, 32, 32),
        load=partial(load_toons, size=32),
        nfe=(1, 2, 4),
        num_samples=1000,
        network=ClassUNet,
        network_defaults=SMALL_UNET,
        training={
            "batch_size": 64,
            "num_iterations": 20000,
            "lr": 1e-3,
            "lr_warmup": 200,
            "lr_decay": 0.5,
            "ema_half_lives": [0.05],
            "log_interval": 50,
            "save_interval": 500,
        },
        presets={"laptop": Preset("an hour on two CPU cores", {"num_iterations": 5000, "auto_resume": True})},
    )
)
