"""Precision, recall, density and coverage: how two sets lie in each other's neighbourhoods of k nearest neighbours."""

from collections.abc import Sequence

import numpy as np

from src.evaluation.arrays import float_rows

NEIGHBOURS = 3  # of precision and recall (Kynkäänniemi et al., arXiv:1904.06991)
DENSITY_NEIGHBOURS = 5  # of density and coverage (Naeem et al., arXiv:2002.09797)
ROUNDING = 1e-12  # squared distances below this share of the squared lengths are 0
BLOCK = 1024


def prdc(generated: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """The four of generated features (N, D) against reference features (M, D), N and M greater than 5; see subset_prdc."""
    values = subset_prdc(generated, reference, [np.arange(len(generated))])
    return {name: float(value[0]) for name, value in values.items()}


def subset_prdc(generated: np.ndarray, reference: np.ndarray, subsets: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Precision, recall, density and coverage of generated[rows] for each array of row numbers, each (subsets,).

    The ball of an image reaches to its k-th nearest other image of the same set.

    - precision: the share of generated images in at least one reference ball (k = 3): are the images good?
    - recall: the share of reference images in at least one generated ball (k = 3): are all kinds of images there?
    - density: the mean number of reference balls that a generated image lies in, divided by k = 5; may exceed 1.
    - coverage: the share of reference balls (k = 5) that hold a generated image.

    A point on the rim of a ball is in it. Distances below rounding are 0, so that copies of one image have balls of radius 0.
    8 N (N + M) bytes are held. Raises ValueError as float_rows does, for 5 rows or fewer in a set too.
    """
    generated, reference = float_rows(generated, reference, DENSITY_NEIGHBOURS + 1)
    between, within = squared_distances(generated, reference), squared_distances(generated, generated)
    in_small, in_large = (between <= squared_radii(reference, k) for k in (NEIGHBOURS, DENSITY_NEIGHBOURS))
    is_good, balls = in_small.any(axis=1), in_large.sum(axis=1)
    rows = []
    for subset in subsets:
        radii = _kth_smallest_of_others(within[np.ix_(subset, subset)], np.arange(len(subset)), NEIGHBOURS)
        recalled = (between[subset] <= radii[:, None]).any(axis=0)
        density = balls[subset].mean() / DENSITY_NEIGHBOURS
        rows.append((is_good[subset].mean(), recalled.mean(), density, in_large[subset].any(axis=0).mean()))
    return dict(zip(("precision", "recall", "density", "coverage"), np.array(rows).T, strict=True))


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a_i - b_j|^2 of float64 rows (N, D) and (M, D): (N, M). What is below rounding is 0."""
    lengths = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
    distances = lengths - 2 * (a @ b.T)
    distances[distances < ROUNDING * lengths] = 0
    return distances


def squared_radii(rows: np.ndarray, k: int) -> np.ndarray:
    """The squared distance of each row to its k-th nearest other row: (N,)."""
    blocks = [np.arange(start, min(start + BLOCK, len(rows))) for start in range(0, len(rows), BLOCK)]
    return np.concatenate([_kth_smallest_of_others(squared_distances(rows[block], rows), block, k) for block in blocks])


def _kth_smallest_of_others(distances: np.ndarray, own: np.ndarray, k: int) -> np.ndarray:
    """The k-th smallest of each row of distances (B, N), which is changed, without the row's own column, own (B,)."""
    distances[np.arange(len(distances)), own] = np.inf
    return np.partition(distances, k - 1, axis=1)[:, k - 1]
