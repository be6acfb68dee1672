"""The kernel distance KID (Binkowski et al., arXiv:1801.01401): MMD^2 of features under the kernel (x.y / D + 1)^3."""

from collections.abc import Sequence

import numpy as np

from src.evaluation.arrays import float_rows

BLOCK = 512  # rows of a kernel matrix held at a time


def kid(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate of MMD^2 from all rows of a (N, D) and b (M, D), in float64. It may be below 0.

        sum_{i != j} k(a_i, a_j) / (N (N - 1)) + sum_{i != j} k(b_i, b_j) / (M (M - 1)) - 2 mean k(a_i, b_j)

    (Gretton et al., JMLR 13 (2012), eq. 3). Its expectation does not depend on N and M, unlike FID's. Raises ValueError as
    float_rows does; so do the functions below.
    """
    return float(subset_kids(a, b, [np.arange(len(a))])[0])


def subset_kids(a: np.ndarray, b: np.ndarray, subsets: Sequence[np.ndarray]) -> np.ndarray:
    """kid(a[rows], b) for each array of different row numbers: (subsets,). Kernels are computed once for all of them."""
    return _estimates(a, b, _indicators(subsets, len(a)), np.ones((1, len(b))))


def sampled_kids(a: np.ndarray, b: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 0) -> np.ndarray:
    """kid of random subsets of both sets, without replacement: (subsets,). clean-fid and torch-fidelity report their mean.

    size is at most N and M. Their standard deviation tells how much KID of `size` images varies: no standard error of the mean.
    """
    size, rng = min(size, len(a), len(b)), np.random.default_rng(seed)
    chosen_a, chosen_b = ([rng.permutation(len(rows))[:size] for _ in range(subsets)] for rows in (a, b))
    return _estimates(a, b, _indicators(chosen_a, len(a)), _indicators(chosen_b, len(b)))


def _indicators(subsets: Sequence[np.ndarray], count: int) -> np.ndarray:
    """1 where a row is in a subset, else 0: (subsets, count)."""
    chosen = np.zeros((len(subsets), count))
    for row, subset in zip(chosen, subsets, strict=True):
        row[subset] = 1
    return chosen


def _estimates(a: np.ndarray, b: np.ndarray, chosen_a: np.ndarray, chosen_b: np.ndarray) -> np.ndarray:
    """The unbiased estimate for each row of the indicators (S, N) and (S or 1, M): (S,)."""
    a, b = float_rows(a, b)
    count_a, count_b = chosen_a.sum(axis=1), chosen_b.sum(axis=1)
    within_a = (_kernel_sums(a, a, chosen_a, chosen_a) - chosen_a @ _own_kernel(a)) / (count_a * (count_a - 1))
    within_b = (_kernel_sums(b, b, chosen_b, chosen_b) - chosen_b @ _own_kernel(b)) / (count_b * (count_b - 1))
    between = _kernel_sums(a, b, chosen_a, chosen_b) / (count_a * count_b)
    return within_a + within_b - 2 * between


def _kernel_sums(a: np.ndarray, b: np.ndarray, chosen_a: np.ndarray, chosen_b: np.ndarray) -> np.ndarray:
    """The sum of k over all pairs of chosen rows, for each row of the indicators."""
    total = 0.0
    for start in range(0, len(a), BLOCK):
        block = slice(start, start + BLOCK)
        kernel = (a[block] @ b.T / a.shape[1] + 1) ** 3
        total = total + ((kernel @ chosen_b.T) * chosen_a[:, block].T).sum(axis=0)
    return total


def _own_kernel(rows: np.ndarray) -> np.ndarray:
    """k of each row with itself: (N,)."""
    return ((rows**2).sum(axis=1) / rows.shape[1] + 1) ** 3
