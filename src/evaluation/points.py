"""How far two sets of points are from each other: pure functions of arrays (N, D) and (M, D), computed in float64."""

import numpy as np
from scipy.spatial import cKDTree

BLOCK = 256  # rows of a kernel matrix held at a time


def chamfer(a: np.ndarray, b: np.ndarray) -> float:
    """The Chamfer distance: squared distances to the nearest neighbour, summed over all points of a (N, D) and of b (M, D).

        sum_a min_b |a - b|^2 + sum_b min_a |a - b|^2                  (Fan et al., arXiv:1612.00603)

    It is a sum, not a mean: it grows with the number of points, and bounds on it hold for one number, 2,048 against 2,048 in
    the course. Unit: that of the coordinates, squared.

    Raises ValueError for sets that are empty, of different D or not finite; so do the functions below.
    """
    a, b = _checked(a, b)
    return float((cKDTree(b).query(a)[0] ** 2).sum() + (cKDTree(a).query(b)[0] ** 2).sum())


def sliced_wasserstein(a: np.ndarray, b: np.ndarray, projections: int = 256, seed: int = 0) -> float:
    """The sliced 2-Wasserstein distance of a and b, both (N, D): sorted projections on random directions are compared.

        (mean over directions u of W2^2(<u, a>, <u, b>))^(1/2)         (Bonneel et al., JMIV 51 (2015))

    The directions are uniform on the sphere and follow from the seed. A set and itself shifted by v are |v| / D^(1/2) apart,
    in expectation over directions of the square. Unit: that of the coordinates.

    Raises ValueError for sets of different size, too.
    """
    a, b = _checked(a, b)
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
    a, b = _checked(a, b)
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


def _checked(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"expected points (N, D) and (M, D), got {a.shape} and {b.shape}")
    if not (len(a) and len(b)):
        raise ValueError("expected at least one point in each set")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("points hold values that are not finite")
    return a, b
