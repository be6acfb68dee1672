"""The challenge's data: Simpsons faces by the published split, and the embedded toon faces.

Source: kostastokis/simpsons-faces on Kaggle, 200x200 faces, resized once to 64x64. The first use downloads it with kagglehub
into ./data; a folder or zip file of the same images given as root needs no download.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from src.common.cli import UserError
from src.common.files import PROJECT_ROOT, write_whole
from src.common.images import from_uint8
from src.datasets.images import cached_array, load_images

IMAGE_SIZE = 64
KAGGLE_DATASET = "kostastokis/simpsons-faces"
DEFAULT_ROOT = "./data/datasets/kostastokis/simpsons-faces/versions/1/cropped"
DATA_NAMES = ("simpsons", "toon")
REFERENCE_DIRS = {name: f"./data/{name}_64x64/val" for name in DATA_NAMES}
TOON_SPLITS = {"train": (4000, 1), "val": (300, 2)}  # number of images, seed


def split_ids(split: str) -> list[str]:
    """The image ids of the published split: 8,877 for "train", 1,000 for "val"."""
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r}; expected train or val")
    return (PROJECT_ROOT / "data" / f"{split}_split.txt").read_text().split()


def load_split(split: str, root: str | Path = DEFAULT_ROOT, data: str = "simpsons") -> np.ndarray:
    """All images of a split: a read-only memory-mapped array (N, 3, 64, 64), uint8.

    data "simpsons" reads root (downloaded if it is the default and absent), in the order of the split file; "toon" draws.
    Raises UserError where the source is absent, incomplete or damaged.
    """
    if data == "toon":
        from src.datasets import toon

        count, seed = TOON_SPLITS[split]
        return cached_array(["toon", toon.VERSION, count, seed], lambda: toon.toon_faces(count, seed))
    ids = split_ids(split)
    if Path(root) == Path(DEFAULT_ROOT) and not Path(root).exists():
        root = download_simpsons()
    return load_images(root, ids, IMAGE_SIZE)


def download_simpsons() -> Path:
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


class SimpsonsDataset(Dataset):
    """The faces of one split ("train" or "val").

    An item is transform(PIL image, RGB 64x64), or without a transform a float tensor (3, 64, 64) in [-1, 1].
    """

    def __init__(
        self,
        root: str | Path = DEFAULT_ROOT,
        split: str = "train",
        transform: Callable[[Image.Image], Any] | None = None,
        data: str = "simpsons",
    ):
        self.images = load_split(split, root, data)
        names = split_ids(split) if data == "simpsons" else range(len(self.images))
        self.image_paths = [Path(root) / f"{name}.png" for name in names]  # of the source: the images are read already
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        pixels = np.array(self.images[index])
        if self.transform is None:
            return from_uint8(torch.from_numpy(pixels))
        return self.transform(Image.fromarray(pixels.transpose(1, 2, 0)))


class SimpsonsDataModule:
    """Data loaders of both splits; train is shuffled, and its last incomplete batch dropped."""

    def __init__(
        self,
        root: str | Path = DEFAULT_ROOT,
        batch_size: int = 32,
        num_workers: int = 4,
        transform: Callable[[Image.Image], Any] | None = None,
        data: str = "simpsons",
    ):
        self.root = root
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.transform = transform
        self.data = data
        self._set_dataset()

    def _set_dataset(self) -> None:
        """Read both splits, anew where root or transform were changed."""
        self.train_ds = SimpsonsDataset(self.root, "train", self.transform, self.data)
        self.val_ds = SimpsonsDataset(self.root, "val", self.transform, self.data)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_ds, self.batch_size, shuffle=True, drop_last=True, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_ds, self.batch_size, num_workers=self.num_workers)


def get_data_iterator(iterable: Iterable) -> Iterator:
    """Go through iterable again and again, for ever."""
    while True:
        empty = True
        for item in iterable:
            empty = False
            yield item
        if empty:
            raise ValueError("the data loader is empty: is the batch size larger than the data set?")


def prepare_reference(data: str, data_root: str | Path, reference_dir: str | Path, count: int | None = None) -> None:
    """Write the validation images, or the first count, as 0000.png, 0001.png ... in the split's order, all or none."""
    reference_dir = Path(reference_dir)
    images = load_split("val", data_root, data)[:count]
    print(f"writing {len(images)} validation images to {reference_dir}")
    with write_whole(reference_dir, folder=True) as partial:
        partial.mkdir()
        for index, pixels in enumerate(images):
            Image.fromarray(pixels.transpose(1, 2, 0)).save(partial / f"{index:04d}.png")
