"""The Fréchet distance between two sets of features."""

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The squared Fréchet distance of the Gaussians fitted to the rows of a (N, D) and b (M, D), in float64.

        |mean_a - mean_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2)          (Heusel et al., arXiv:1706.08500, eq. 6)

    On features of Inception this is FID. Covariances are those of N - 1. With the centred rows A, divided by
    (N - 1)^(1/2), S_a is A^T A, and the last trace is the sum of the singular values of A B^T (Mathiasen and Hvilshøj,
    arXiv:2009.14075): no matrix root, no complex numbers, exact also where N < D. The result may be below 0 by rounding.

    Raises ValueError for fewer than two rows, different D or values that are not finite.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"expected features (N, D) and (M, D), got {a.shape} and {b.shape}")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs at least two rows, got {len(a)} and {len(b)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features hold values that are not finite")
    difference = a.mean(axis=0) - b.mean(axis=0)
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    trace = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(difference @ difference + (root_a**2).sum() + (root_b**2).sum() - 2 * trace)


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """A matrix R (min(N, D), D) with R^T R the covariance of features (N, D)."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return centred if len(centred) <= centred.shape[1] else np.linalg.qr(centred, mode="r")
