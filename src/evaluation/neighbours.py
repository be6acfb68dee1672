"""The nearest training image of each sample, and whether samples lie nearer to training than to validation images."""

from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 1024  # rows of each set that are in memory as floats at a time


@dataclass
class Neighbours:
    """What `training_neighbours` finds for N samples. Distances are Euclidean."""

    index: np.ndarray  # (N,), the row of the nearest training image
    distance: np.ndarray  # (N,), how far it is
    to_validation: np.ndarray  # (N,), the distance to the nearest validation image
    to_parts: np.ndarray  # (P, N), the same to P disjoint parts of the training images, each as large as the validation set
    expected: float  # the share of training images among training and validation images

    def figures(self, unit: float = 1.0) -> dict[str, Any]:
        """The numbers of metrics.json, distances in this unit; docs/evaluation.md says what they mean.

        gap: above 0 where samples are copies; its spread is that between parts, None of one part. from_train: of a tie, half.
        copied: 1 for a generator of copies; its spread is the standard deviation without copying, were samples independent.
        """
        means = self.to_parts.mean(axis=1)
        from_train = (self.distance < self.to_validation).mean() + (self.distance == self.to_validation).mean() / 2
        return {
            "median": float(np.median(self.distance) / unit),
            "closest": float(self.distance.min() / unit),
            "gap": float((self.to_validation.mean() - means.mean()) / unit),
            "gap_spread": float(means.std(ddof=1) / unit) if len(means) > 1 else None,
            "parts": len(means),
            "from_train": float(from_train),
            "expected": self.expected,
            "copied": float((from_train - self.expected) / (1 - self.expected)),
            "copied_spread": float(np.sqrt(self.expected / (1 - self.expected) / len(self.distance))),
        }


def training_neighbours(samples: np.ndarray, train: np.ndarray, validation: np.ndarray, seed: int = 0) -> Neighbours:
    """The nearest rows of train (T, D) and validation (M, D) to samples (N, D): pixels of images, or features.

    A larger set is nearer to any sample, so the training set is also dealt out at random into parts of M images. Raises
    ValueError for different D, an empty set or T < M.
    """
    if len(train) < len(validation):
        raise ValueError(f"{len(train)} training images are fewer than the {len(validation)} validation images")
    order, size = np.random.default_rng(seed).permutation(len(train)), len(validation)
    index, distance, to_parts = np.zeros(len(samples), dtype=int), np.full(len(samples), np.inf), []
    for start in range(0, len(train), size):
        part = np.sort(order[start : start + size])
        rows, distances = nearest(samples, train, part)
        if len(part) == size:  # the remainder is smaller, so its distances compare with nothing
            to_parts.append(distances)
        closer = distances < distance
        index[closer], distance[closer] = rows[closer], distances[closer]
    expected = len(train) / (len(train) + len(validation))
    return Neighbours(index, distance, nearest(samples, validation)[1], np.array(to_parts), expected)


def nearest(queries: np.ndarray, base: np.ndarray, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The nearest row of base (M, D) to each of the queries (N, D), and its distance: (N,) and (N,).

    rows: the numbers of the rows of base that count; all if not given. Found by float32 products, which may take rows at
    nearly the same distance for each other; the distances are those of float64. Raises ValueError for different D or an empty
    set.
    """
    rows = np.arange(len(base)) if rows is None else rows
    if queries.ndim != 2 or base.ndim != 2 or queries.shape[1] != base.shape[1] or not len(queries) or not len(rows):
        raise ValueError(f"expected rows (N, D) and (M, D), not empty, got {queries.shape} and {(len(rows), *base.shape[1:])}")
    centre = queries[:BLOCK].mean(axis=0, dtype=np.float32)  # lengths without it are smaller, and so is their rounding
    best, index = np.full(len(queries), np.inf, dtype=np.float32), np.zeros(len(queries), dtype=int)
    for start in range(0, len(rows), BLOCK):
        numbers = rows[start : start + BLOCK]
        block = base[numbers].astype(np.float32) - centre
        lengths = np.einsum("ij,ij->i", block, block)
        for first in range(0, len(queries), BLOCK):
            part = slice(first, first + BLOCK)
            distances = lengths - 2 * ((queries[part].astype(np.float32) - centre) @ block.T)  # less |query|^2, all the same
            closest = distances.argmin(axis=1)
            values = np.take_along_axis(distances, closest[:, None], axis=1)[:, 0]
            closer = values < best[part]
            best[part][closer], index[part][closer] = values[closer], numbers[closest[closer]]
    differences = (queries[i].astype(np.float64) - base[j] for i, j in enumerate(index))
    return index, np.array([np.sqrt(difference @ difference) for difference in differences])
