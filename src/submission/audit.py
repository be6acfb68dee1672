"""What is told of a submission without running it, and of its images: whether both are what the rules ask for."""

import numpy as np
import torch
import torch.nn.functional as F

from src.submission.failures import Failed

SAME = 3.0  # two images whose pixels differ by less than this on average (of 255) are one
MOVED = 2  # pixels, by which a copy may be moved
CANDIDATES, ALIKE = 4, 25.0  # small copies that are looked at, and how far from one they may be
DUPLICATE_SHARE = 0.05
NEAR_SHARE = 0.1


# ----------------------------------------------------------------------------------------------------------- the images


def check_distinct(images: np.ndarray) -> float:
    """The share of images (N, 3, H, W) that are equal to an earlier one; Failed above DUPLICATE_SHARE."""
    distinct = len({image.tobytes() for image in images})
    share = 1 - distinct / len(images)
    if share > DUPLICATE_SHARE:
        raise Failed("stored_images", f"{len(images) - distinct} of {len(images)} images are equal to another")
    return share


def check_not_reference(images: np.ndarray, reference: np.ndarray) -> float:
    """The share of images (N, 3, H, W) that are a reference image (M, 3, H, W); Failed above NEAR_SHARE.

    One that is mirrored, moved by up to MOVED pixels, brighter or tinted, or has a little noise is the same image. Compared is
    the nearest by their small copies.
    """
    targets = np.concatenate([reference, reference[..., ::-1]])
    small, wanted = _small(images), _small(targets)
    squares = (wanted**2).sum(axis=1)
    near = 0
    for image, copy in zip(images, small, strict=True):
        nearest = np.argsort(squares - 2 * (wanted @ copy))[:CANDIDATES]
        alike = [index for index in nearest if np.abs(wanted[index] - copy).mean() < ALIKE]
        near += any(_distance(image, targets[index]) < SAME for index in alike)
    share = near / len(images)
    if share > NEAR_SHARE:
        raise Failed("stored_images", f"{near} of {len(images)} images are validation images")
    return share


def _small(images: np.ndarray) -> np.ndarray:
    """Images (N, 3, H, W) reduced to 8x8 without their mean colours: (N, 192), float32."""
    reduced = F.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(images)).float(), 8)
    return (reduced - reduced.mean(dim=(2, 3), keepdim=True)).flatten(1).numpy()


def _distance(image: np.ndarray, other: np.ndarray) -> float:
    """The mean difference of two images (3, H, W) where they overlap, without their mean colours, at the best offset."""
    height, width = image.shape[1:]
    found = []
    for down in range(-MOVED, MOVED + 1):
        for right in range(-MOVED, MOVED + 1):
            rows, columns = height - abs(down), width - abs(right)
            a = image[:, max(down, 0) :, max(right, 0) :][:, :rows, :columns].astype(np.float32)
            b = other[:, max(-down, 0) :, max(-right, 0) :][:, :rows, :columns].astype(np.float32)
            difference = a - b
            found.append(np.abs(difference - difference.mean(axis=(1, 2), keepdims=True)).mean())
    return float(min(found))
