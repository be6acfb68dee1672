"""The Simpsons faces: the published split, where they come from, and how they are read at any size.

Source: kostastokis/simpsons-faces on Kaggle, 200x200 faces, resized once. The first use downloads it with kagglehub into
./data; a folder or zip file of the same images given as root needs no download.
"""

import os
from pathlib import Path

import numpy as np

from src.common.cli import UserError
from src.common.files import PROJECT_ROOT

KAGGLE_DATASET = "kostastokis/simpsons-faces"
DEFAULT_ROOT = "./data/datasets/kostastokis/simpsons-faces/versions/1/cropped"


def split_ids(split: str) -> list[str]:
    """The image ids of the published split: 8,877 for "train", 1,000 for "val"."""
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r}; expected train or val")
    return (PROJECT_ROOT / "data" / f"{split}_split.txt").read_text().split()


def load_faces(split: str, root: str | Path, size: int) -> tuple[np.ndarray, None]:
    """All faces of a split in the order of the split file: a read-only memory-mapped array (N, 3, size, size), uint8.

    The default root is downloaded if it is absent. Raises UserError where the source is absent, incomplete or damaged.
    """
    from src.datasets.images import load_images  # a model is built and sampled without

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
