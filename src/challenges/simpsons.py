"""The course's challenge: 8,877 Simpsons faces at 64x64, the U-Net of 58.8 million parameters, 1, 2 and 4 network calls.

simpsons32 has the same faces at 32x32 and a network of 1.1 million parameters: a laptop is enough to compete and to compare.

The faces are those of kostastokis/simpsons-faces on Kaggle, 200x200, resized once. The first use downloads them with kagglehub
into ./data; a folder or zip file of the same images given as root needs no download.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np

from src.challenges.shared.challenge import Published, register
from src.challenges.shared.images import ImageChallenge
from src.challenges.shared.unet import SMALL_UNET, ClassUNet
from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.datasets.images import load_images

KAGGLE_DATASET = "kostastokis/simpsons-faces"
DEFAULT_ROOT = "./data/datasets/kostastokis/simpsons-faces/versions/1/cropped"


def split_ids(split: str) -> list[str]:
    """The image ids of the published split: 8,877 for "train", 1,000 for "val"."""
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r}; expected train or val")
    return (PROJECT_ROOT / "data" / f"{split}_split.txt").read_text().split()


def load_faces(split: str, root: str | Path, size: int) -> tuple[np.ndarray, None]:
    """All faces of a split in the order of the split file, uint8 (N, 3, size, size), and no labels. Errors as of load_images.

    The default root is downloaded if it is absent.
    """
    if Path(root) == Path(DEFAULT_ROOT) and not Path(root).exists():
        root = download()
    return load_images(root, split_ids(split), size), None


def download() -> Path:
    """Download the data set with kagglehub, its cache in ./data, and return the folder of the faces."""
    try:
        os.environ.setdefault("KAGGLEHUB_CACHE", "./data")
        import kagglehub
    except ImportError as error:
        raise UserError(
            f"no data at {DEFAULT_ROOT} and kagglehub is not installed: pip install kagglehub, or give --data_root"
        ) from error
    print(f"downloading {KAGGLE_DATASET} from Kaggle ...")
    try:
        folder = kagglehub.dataset_download(KAGGLE_DATASET)
    except Exception as error:  # kagglehub raises a dozen unrelated types
        raise UserError(
            f"no data at {DEFAULT_ROOT}, and the download from Kaggle failed ({type(error).__name__}: {str(error)[:150]}); "
            "give a folder or zip file of the faces with --data_root"
        ) from error
    return Path(folder) / "cropped"


SIMPSONS = register(
    ImageChallenge(
        name="simpsons",
        about="Simpsons faces at 64x64, the course's challenge",
        shape=(3, 64, 64),
        load=partial(load_faces, size=64),
        default_root=DEFAULT_ROOT,
        nfe=(1, 2, 4),
        num_samples=1000,
        published=(  # FID clean-fid, 1,000 vs 1,000 images
            Published("the course's baseline", "rectified flow, published", {1: 293.4, 2: 233.8, 4: 114.3}),
            Published("best public entry", "published", {1: 90.3, 2: 41.5, 4: 33.5}),
            Published("real images", "1,000 of the training images: the floor", {1: 18.2, 2: 18.2, 4: 18.2}),
        ),
    )
)
SIMPSONS32 = register(
    ImageChallenge(
        name="simpsons32",
        about="Simpsons faces at 32x32 and a small U-Net, for a laptop",
        shape=(3, 32, 32),
        load=partial(load_faces, size=32),
        default_root=DEFAULT_ROOT,
        nfe=(1, 2, 4),
        num_samples=1000,
        network=ClassUNet,
        network_defaults=SMALL_UNET,
        training={
            "batch_size": 64,
            "num_iterations": 2542,
            "lr": 5e-4,
            "lr_warmup": 200,
            "lr_decay": 0.3,
            "ema_half_lives": [0.03],
            "log_interval": 50,
            "save_interval": 300,
        },
    )
)
