"""The course's data under the course's names: Simpsons faces by the published split, as data sets and loaders of PyTorch.

The data themselves are read by the challenge, `src/challenges/simpsons.py`; train.py takes them from there.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from src.challenges.simpsons import DEFAULT_ROOT, SIMPSONS, split_ids
from src.common.images import from_uint8


def load_split(split: str, root: str | Path = DEFAULT_ROOT) -> np.ndarray:
    """All faces of a split ("train" or "val"): a read-only array (N, 3, 64, 64), uint8.

    Those at the default root are downloaded if they are absent. Raises UserError where root lacks them.
    """
    return SIMPSONS.load(split, root)[0]


class SimpsonsDataset(Dataset):
    """The faces of one split ("train" or "val").

    An item is transform(PIL image, RGB 64x64), or without a transform a float tensor (3, 64, 64) in [-1, 1].
    """

    def __init__(
        self,
        root: str | Path = DEFAULT_ROOT,
        split: str = "train",
        transform: Callable[[Image.Image], Any] | None = None,
    ):
        self.images = load_split(split, root)
        self.image_paths = [Path(root) / f"{name}.png" for name in split_ids(split)]  # the images are read already
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
    ):
        self.root, self.batch_size, self.num_workers, self.transform = root, batch_size, num_workers, transform
        self._set_dataset()

    def _set_dataset(self) -> None:
        """Read both splits, anew where root or transform were changed."""
        self.train_ds = SimpsonsDataset(self.root, "train", self.transform)
        self.val_ds = SimpsonsDataset(self.root, "val", self.transform)

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
