"""Training batches from images that stay on the device as uint8."""

import numpy as np
import torch

from src.utils import UserError, from_uint8

DEVELOPMENT_SEED = 2025  # one development split for all runs, whatever their seed


def development_split(count: int, development: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide image numbers 0..count-1 at random into those to train on and `development` to judge on, each in order.

    The division depends on the two numbers alone, and a larger development split contains a smaller one.
    Raises UserError unless something is left to train on.
    """
    if development >= count:
        raise UserError(f"--dev_images {development} leaves nothing to train on: there are {count} training images")
    order = np.random.default_rng(DEVELOPMENT_SEED).permutation(count)
    return np.sort(order[development:]), np.sort(order[:development])


class Batches:
    """Shuffled batches without end, each a function of the seed and its number alone.

    Every epoch is a new permutation of all images; a batch may straddle two epochs. There is no state to save: batch k is the
    same in a resumed run. Images, permutations and mirrorings lie on the device, so that a batch costs no transfer.

    Args:
        images: uint8 (N, 3, H, W).
        flip: mirror each image left-right with probability one half.

    Raises UserError if a batch is larger than the data set.
    """

    def __init__(self, images: np.ndarray, batch_size: int, seed: int, device: torch.device, flip: bool = True):
        if batch_size > len(images):
            raise UserError(f"--batch_size {batch_size} is larger than the data set of {len(images)} images")
        self.images = torch.from_numpy(np.array(images)).to(device)  # a copy: a memory map is read-only
        self.batch_size = batch_size
        self.seed = seed
        self.flip = flip
        self._epochs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def _epoch(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The order of this epoch, (N,), and which images are mirrored in it, (N,)."""
        if epoch not in self._epochs:
            self._epochs = {key: value for key, value in self._epochs.items() if key == epoch - 1}
            rng = np.random.default_rng([self.seed, epoch])
            order = torch.from_numpy(rng.permutation(len(self.images)))
            mirrored = torch.from_numpy(rng.random(len(self.images)) < 0.5)
            self._epochs[epoch] = order.to(self.images.device), mirrored.to(self.images.device)
        return self._epochs[epoch]

    def rows(self, number: int, rows: slice) -> torch.Tensor:
        """These rows of batch `number` (from 0): float32 (rows, 3, H, W) in [-1, 1]."""
        epoch, start = divmod(number * self.batch_size + rows.start, len(self.images))
        order, mirrored = self._epoch(epoch)
        count = rows.stop - rows.start
        if start + count > len(self.images):
            order, mirrored = (torch.cat(parts) for parts in zip((order, mirrored), self._epoch(epoch + 1), strict=True))
        data = from_uint8(self.images[order[start : start + count]])
        if self.flip:
            data = torch.where(mirrored[start : start + count, None, None, None], data.flip(-1), data)
        return data

    def __getitem__(self, number: int) -> torch.Tensor:
        """Batch `number` (from 0): float32 (batch_size, 3, H, W) in [-1, 1]."""
        return self.rows(number, slice(0, self.batch_size))
