"""Training batches from images that stay on the device as they are stored."""

import numpy as np
import torch

from src.common.cli import UserError
from src.common.images import from_uint8
from src.common.noise import draw_noise

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
        images: uint8 (N, 3, H, W), or floating-point samples (N, ...) of any precision, as the model sees them.
        flip: mirror each image left-right with probability one half.
        noise_seeds: int64 (N,), the seed of the noise that belongs to each image, where it has one. The noise is drawn anew
            for each batch, on the CPU, and mirrored where its image is.

    Raises UserError if a batch is larger than the data set, or samples that are no images are to be mirrored.
    """

    def __init__(
        self,
        images: np.ndarray,
        batch_size: int,
        seed: int,
        device: torch.device,
        flip: bool = True,
        noise_seeds: np.ndarray | None = None,
    ):
        if batch_size > len(images):
            raise UserError(f"--batch_size {batch_size} is larger than the data set of {len(images)} images")
        if flip and images.ndim != 4:
            raise UserError(f"--flip mirrors images; these samples have the shape {images.shape[1:]}: give --no-flip")
        self.images = torch.from_numpy(np.require(images, requirements="W")).to(device)  # a memory map is read-only: copied
        self.batch_size = batch_size
        self.seed = seed
        self.flip = flip
        self.sample_shape = tuple(images.shape[1:])
        self.has_noise = noise_seeds is not None
        self.noise_seeds = None if noise_seeds is None else torch.from_numpy(noise_seeds)
        self._epochs: dict[int, tuple[torch.Tensor, ...]] = {}

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def _epoch(self, epoch: int) -> tuple[torch.Tensor, ...]:
        """Of this epoch: the images' order, (N,), which are mirrored in it, (N,), and their noise's seeds, (N,) on the CPU."""
        if epoch not in self._epochs:
            self._epochs = {key: value for key, value in self._epochs.items() if key == epoch - 1}
            rng = np.random.default_rng([self.seed, epoch])
            order = torch.from_numpy(rng.permutation(len(self.images)))
            mirrored = torch.from_numpy(rng.random(len(self.images)) < 0.5) & self.flip
            seeds = order[:0] if self.noise_seeds is None else self.noise_seeds[order]
            self._epochs[epoch] = order.to(self.images.device), mirrored.to(self.images.device), seeds
        return self._epochs[epoch]

    def _take(self, number: int, rows: slice) -> tuple[torch.Tensor, ...]:
        """The order, mirroring and noise's seeds of these rows of batch `number`."""
        epoch, start = divmod(number * self.batch_size + rows.start, len(self.images))
        end = start + rows.stop - rows.start
        parts = self._epoch(epoch)
        if end > len(self.images):
            parts = [torch.cat(both) for both in zip(parts, self._epoch(epoch + 1), strict=True)]
        return tuple(part[start:end] for part in parts)

    def rows(self, number: int, rows: slice) -> torch.Tensor:
        """These rows of batch `number` (from 0): float32 (rows, 3, H, W) in [-1, 1], or samples as they are."""
        order, mirrored, _ = self._take(number, rows)
        pixels = self.images[order]
        return self._mirror(pixels.float() if pixels.is_floating_point() else from_uint8(pixels), mirrored)

    def noise(self, number: int, rows: slice) -> torch.Tensor:
        """The noise that belongs to the images of these rows: float32 (rows, 3, H, W). Only with noise_seeds."""
        _, mirrored, seeds = self._take(number, rows)
        return self._mirror(draw_noise((len(seeds), *self.images.shape[1:]), self.images.device, seeds.tolist()), mirrored)

    def __getitem__(self, number: int) -> torch.Tensor:
        """Batch `number` (from 0): float32 (batch_size, 3, H, W) in [-1, 1]."""
        return self.rows(number, slice(0, self.batch_size))

    def _mirror(self, images: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W), those of them left-right whose `mirrored` (B,) is set; as they are without flip."""
        return torch.where(mirrored[:, None, None, None], images.flip(-1), images) if self.flip else images
