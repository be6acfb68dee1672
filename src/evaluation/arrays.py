"""What every distance between two sets of rows asks of them."""

import numpy as np


def float_rows(a: np.ndarray, b: np.ndarray, minimum: int = 2, what: str = "features") -> tuple[np.ndarray, np.ndarray]:
    """a (N, D) and b (M, D) in float64. ValueError for other shapes, fewer rows than the minimum or values not finite."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"expected {what} (N, D) and (M, D), got {a.shape} and {b.shape}")
    if min(len(a), len(b)) < minimum:
        raise ValueError(f"expected at least {minimum} rows in each set, got {len(a)} and {len(b)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"{what} hold values that are not finite")
    return a, b
