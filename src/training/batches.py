"""Training batches from images that stay on the device as they are stored."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from src.common.cli import UserError
from src.common.images import from_uint8
from src.common.noise import draw_noise

AFFINE = (10.0, 0.07, 0.1)  # degrees, share of the size, share of the scale, at strength 1


class Batches:
    """Shuffled batches without end, each a function of the seed and its number alone.

    Every epoch is a new permutation of all images; a batch may straddle two epochs. There is no state to save: batch k is the
    same in a resumed run. Images, permutations and mirrorings lie on the device, so that a batch costs no transfer.

    Args:
        images: uint8 (N, 3, H, W), or floating-point samples (N, ...) of any precision, as the model sees them.
        flip: mirror each image left-right with probability one half.
        noise_seeds: int64 (N,), the seed of the noise that belongs to each image, where it has one. The noise is drawn anew
            for each batch, on the CPU, and mirrored where its image is.
        labels: int64 (N,), the class of each image, where they have one.
        affine: strength of random affine maps of each image: AFFINE times as much at most; 0 for none.

    Raises UserError if a batch is larger than the data set, samples that are no images are to be mirrored or mapped, or images
    that noise belongs to are to be mapped.
    """

    def __init__(
        self,
        images: np.ndarray,
        batch_size: int,
        seed: int,
        device: torch.device,
        flip: bool = True,
        noise_seeds: np.ndarray | None = None,
        affine: float = 0.0,
        labels: np.ndarray | None = None,
    ):
        if batch_size > len(images):
            raise UserError(f"--batch_size {batch_size} is larger than the data set of {len(images)} images")
        if flip and images.ndim != 4:
            raise UserError(f"--flip mirrors images; these samples have the shape {images.shape[1:]}: give --no-flip")
        if affine and images.ndim != 4:
            raise UserError(f"--affine maps images; these samples have the shape {images.shape[1:]}")
        if affine and noise_seeds is not None:
            raise UserError("--affine would part images from the noise that belongs to them: leave it out with --pairs")
        self.images = torch.from_numpy(np.require(images, requirements="W")).to(device)  # a memory map is read-only: copied
        self.batch_size = batch_size
        self.seed = seed
        self.flip, self.affine = flip, affine
        self.sample_shape = tuple(images.shape[1:])
        self.has_noise = noise_seeds is not None
        self.noise_seeds = None if noise_seeds is None else torch.from_numpy(noise_seeds)
        self.has_labels = labels is not None
        self.all_labels = None if labels is None else torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(device)
        self._epochs: dict[int, tuple[torch.Tensor, ...]] = {}

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def _epoch(self, epoch: int) -> tuple[torch.Tensor, ...]:
        """Of this epoch: the images' order, (N,), which are mirrored in it, (N,), the seeds of their noise, (N,) on the CPU,
        and their affine draws in -1..1, (N, 4). The last two have no rows where there is no such thing."""
        if epoch not in self._epochs:
            self._epochs = {key: value for key, value in self._epochs.items() if key == epoch - 1}
            rng = np.random.default_rng([self.seed, epoch])
            order = torch.from_numpy(rng.permutation(len(self.images)))
            mirrored = torch.from_numpy(rng.random(len(self.images)) < 0.5) & self.flip
            seeds = order[:0] if self.noise_seeds is None else self.noise_seeds[order]
            draws = torch.from_numpy(2 * rng.random((len(order) if self.affine else 0, 4), np.float32) - 1)
            device = self.images.device
            self._epochs[epoch] = order.to(device), mirrored.to(device), seeds, draws.to(device)
        return self._epochs[epoch]

    def _take(self, number: int, rows: slice) -> tuple[torch.Tensor, ...]:
        """The order, mirroring, noise's seeds and affine draws of these rows of batch `number`."""
        epoch, start = divmod(number * self.batch_size + rows.start, len(self.images))
        end = start + rows.stop - rows.start
        parts = self._epoch(epoch)
        if end > len(self.images):
            parts = [torch.cat(both) for both in zip(parts, self._epoch(epoch + 1), strict=True)]
        return tuple(part[start:end] for part in parts)

    def rows(self, number: int, rows: slice) -> torch.Tensor:
        """These rows of batch `number` (from 0): float32 (rows, 3, H, W) in [-1, 1], or samples as they are."""
        order, mirrored, _, draws = self._take(number, rows)
        pixels = self.images[order]
        images = self._mirror(pixels.float() if pixels.is_floating_point() else from_uint8(pixels), mirrored)
        return random_affine(images, self.affine * draws) if self.affine else images

    def noise(self, number: int, rows: slice) -> torch.Tensor:
        """The noise that belongs to the images of these rows: float32 (rows, 3, H, W). Only with noise_seeds."""
        _, mirrored, seeds, _ = self._take(number, rows)
        return self._mirror(draw_noise((len(seeds), *self.images.shape[1:]), self.images.device, seeds.tolist()), mirrored)

    def labels(self, number: int, rows: slice) -> torch.Tensor:
        """The labels of the images of these rows: int64 (rows,). Only with labels."""
        return self.all_labels[self._take(number, rows)[0]]

    def __getitem__(self, number: int) -> torch.Tensor:
        """Batch `number` (from 0): float32 (batch_size, 3, H, W) in [-1, 1]."""
        return self.rows(number, slice(0, self.batch_size))

    def _mirror(self, images: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W), those of them left-right whose `mirrored` (B,) is set; as they are without flip."""
        return torch.where(mirrored[:, None, None, None], images.flip(-1), images) if self.flip else images


def random_affine(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) turned, shifted in x and y and scaled by draws (B, 4) times AFFINE. Outside, the border goes on."""
    angle, shift, scale = AFFINE
    turn, size = draws[:, 0] * math.radians(angle), 1 + draws[:, 3] * scale
    matrix = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], dim=1).view(-1, 2, 2) / size[:, None, None]
    theta = torch.cat([matrix, 2 * shift * draws[:, 1:3, None]], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
