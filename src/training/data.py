"""Training batches from images that stay on the device as uint8."""

import numpy as np
import torch

from src.utils import from_uint8


class Batches:
    """Shuffled batches without end, each a function of the seed and its number alone.

    Every epoch is a new permutation of all images; a batch may straddle two epochs. There is no state to save: batch k is the
    same in a resumed run.

    Args:
        images: uint8 (N, 3, H, W), N >= 1.
        flip: mirror each image left-right with probability one half.
    """

    def __init__(self, images: np.ndarray, batch_size: int, seed: int, device: torch.device, flip: bool = True):
        self.images = torch.from_numpy(np.array(images)).to(device)  # a copy: a memory map is read-only
        self.batch_size = batch_size
        self.seed = seed
        self.flip = flip
        self._order: dict[int, torch.Tensor] = {}

    def order(self, epoch: int) -> torch.Tensor:
        """The permutation of this epoch, (N,), on the CPU."""
        if epoch not in self._order:
            self._order = {key: value for key, value in self._order.items() if key == epoch - 1}
            rng = np.random.default_rng([self.seed, epoch])
            self._order[epoch] = torch.from_numpy(rng.permutation(len(self.images)))
        return self._order[epoch]

    def __getitem__(self, number: int) -> torch.Tensor:
        """Batch `number` (from 0): float32 (batch_size, 3, H, W) in [-1, 1]."""
        total, first = len(self.images), number * self.batch_size
        epochs = range(first // total, (first + self.batch_size - 1) // total + 1)
        start = first - epochs[0] * total
        indices = torch.cat([self.order(epoch) for epoch in epochs])[start : start + self.batch_size]
        data = from_uint8(self.images[indices.to(self.images.device)])
        if self.flip:
            rng = np.random.default_rng([self.seed, number, 1])
            mirrored = torch.from_numpy(rng.random(self.batch_size) < 0.5).to(data.device)
            data = torch.where(mirrored[:, None, None, None], data.flip(-1), data)
        return data
