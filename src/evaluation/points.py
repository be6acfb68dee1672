"""How far two sets of points are from each other: pure functions of arrays (N, D) and (M, D), computed in float64."""

import numpy as np
from scipy.spatial import cKDTree

from src.evaluation.arrays import float_rows

BLOCK = 256  # rows of a kernel matrix held at a time


def chamfer(a: np.ndarray, b: np.ndarray) -> float:
    """The Chamfer distance: squared distances to the nearest neighbour, summed over all points of a (N, D) and of b (M, D).

        sum_a min_b |a - b|^2 + sum_b min_a |a - b|^2                  (Fan et al., arXiv:1612.00603)

    A sum, not a mean: bounds on it hold for one number of points, 2,048 against 2,048 in the course. Unit: that of the
    coordinates, squared. Raises ValueError as float_rows does; so do the functions below.
    """
    a, b = float_rows(a, b, 1, "points")
    return float((cKDTree(b).query(a)[0] ** 2).sum() + (cKDTree(a).query(b)[0] ** 2).sum())


def sliced_wasserstein(a: np.ndarray, b: np.ndarray, projections: int = 256, seed: int = 0) -> float:
    """The sliced 2-Wasserstein distance of a and b, both (N, D): sorted projections on random directions are compared.

        (mean over directions u of W2^2(<u, a>, <u, b>))^(1/2)         (Bonneel et al., JMIV 51 (2015))

    The directions are uniform on the sphere and follow from the seed. A set and itself shifted by v are about |v| / D^(1/2)
    apart. Unit: that of the coordinates. Raises ValueError for sets of different size, too.
    """
    a, b = float_rows(a, b, 1, "points")
    if len(a) != len(b):
        raise ValueError(f"expected sets of one size, got {len(a)} and {len(b)} points")
    directions = np.random.default_rng(seed).standard_normal((a.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    difference = np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0)
    return float(np.sqrt((difference**2).mean()))


def mmd(a: np.ndarray, b: np.ndarray, widest: float = 4.0, widths: int = 5) -> float:
    """The squared maximum mean discrepancy of a (N, D) and b (M, D), the biased estimate: 0 for equal sets, never below.

        mean k(a, a') + mean k(b, b') - 2 mean k(a, b)                 (Gretton et al., JMLR 13 (2012), eq. 5, squared)

    All pairs count, a point with itself too. k is the mean of Gaussian kernels exp(-|x - y|^2 / (2 s^2)) whose widths s are
    widest, widest / 2, widest / 4 ... in the unit of the coordinates. The result has no unit and is at most 2.
    """
    a, b = float_rows(a, b, 1, "points")
    value = _mean_kernel(a, a, widest, widths) + _mean_kernel(b, b, widest, widths) - 2 * _mean_kernel(a, b, widest, widths)
    return max(float(value), 0.0)


def _mean_kernel(a: np.ndarray, b: np.ndarray, widest: float, widths: int) -> float:
    """The mean of k over all pairs. Half the width is the fourth power of a Gaussian: one exponential serves all widths."""
    total, squares = 0.0, (b**2).sum(axis=1)
    for start in range(0, len(a), BLOCK):
        rows = a[start : start + BLOCK]
        distances = ((rows**2).sum(axis=1)[:, None] + squares - 2 * rows @ b.T).clip(min=0)
        kernel = np.exp(distances / (-2 * widest**2))
        total += kernel.sum()
        for _ in range(widths - 1):
            kernel *= kernel
            kernel *= kernel
            total += kernel.sum()
    return total / (widths * len(a) * len(b))
