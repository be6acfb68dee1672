"""The Fréchet distance between two sets of features, of parts of a set, and of a set without end."""

from collections.abc import Sequence

import numpy as np

from src.evaluation.arrays import float_rows


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The squared Fréchet distance of the Gaussians fitted to the rows of a (N, D) and b (M, D), in float64.

        |mean_a - mean_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2)          (Heusel et al., arXiv:1706.08500, eq. 6)

    On features of Inception this is FID. With the centred rows A, divided by (N - 1)^(1/2), S_a is A^T A, and the last trace
    is the sum of the singular values of A B^T (Mathiasen and Hvilshøj, arXiv:2009.14075): exact also where N < D. The result
    may be below 0 by rounding.

    Raises ValueError for fewer than two rows, different D or values that are not finite.
    """
    a, b = float_rows(a, b)
    difference = a.mean(axis=0) - b.mean(axis=0)
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    trace = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(difference @ difference + (root_a**2).sum() + (root_b**2).sum() - 2 * trace)


def distance_from_statistics(a: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> float:
    """frechet_distance of the rows of a (N, D) from a Gaussian of mean mu (D,) and covariance sigma (D, D).

    tr (S_a sigma)^(1/2) is the sum of the roots of the eigenvalues of R sigma R^T with R^T R = S_a. It agrees with
    frechet_distance to about 1e-6 of the traces, as subset_distances does. Raises ValueError as frechet_distance does.
    """
    a, _ = float_rows(a, np.stack([mu, mu]))
    if sigma.shape != (len(mu), len(mu)):
        raise ValueError(f"expected a covariance {(len(mu), len(mu))}, got {sigma.shape}")
    difference, root = a.mean(axis=0) - mu, _covariance_root(a)
    eigenvalues = np.linalg.eigvalsh(root @ sigma @ root.T)
    trace = np.sqrt(eigenvalues.clip(min=0)).sum()
    return float(difference @ difference + (root**2).sum() + np.trace(sigma) - 2 * trace)


def subset_distances(a: np.ndarray, b: np.ndarray, subsets: Sequence[np.ndarray]) -> np.ndarray:
    """frechet_distance(a[rows], b) for each array of row numbers, in a fraction of the time: (subsets,).

    Singular values are computed as roots of eigenvalues: results agree with frechet_distance to about 1e-6 of the traces.
    """
    a, b = float_rows(a, b)
    root_b = _covariance_root(b)
    a = a - b.mean(axis=0)
    products, lengths, trace_b = a @ root_b.T, (a**2).sum(axis=1), (root_b**2).sum()
    distances = []
    for rows in subsets:
        mean, part = a[rows].mean(axis=0), products[rows]
        part = (part - part.mean(axis=0)) / np.sqrt(len(rows) - 1)
        gram = part @ part.T if len(part) <= part.shape[1] else part.T @ part
        singular = np.sqrt(np.linalg.eigvalsh(gram).clip(min=0))
        trace_a = (lengths[rows].sum() - len(rows) * (mean @ mean)) / (len(rows) - 1)
        distances.append(mean @ mean + trace_a + trace_b - 2 * singular.sum())
    return np.array(distances)


def fid_infinity(a: np.ndarray, b: np.ndarray, parts: int = 4, seed: int = 0) -> float:
    """An estimate of the distance of b (M, D) to infinitely many rows like those of a (N, D), N at least 2 * parts.

    The bias of FID falls nearly as 1 / n. The shuffled rows are cut into 1, 2, ... `parts` equal parts; the line through the
    mean distances over 1 / n is read at 0 (Chong and Forsyth, arXiv:1911.07023, whose subsets overlap). The bias of b's own
    M rows stays. Where N is below D the line is a curve: compare estimates of equal N only.
    """
    if len(a) < 2 * parts:
        raise ValueError(f"{parts} parts need at least {2 * parts} rows, got {len(a)}")
    order = np.random.default_rng(seed).permutation(len(a))
    cuts = [order[: len(a) // count * count].reshape(count, -1) for count in range(1, parts + 1)]
    distances = np.split(subset_distances(a, b, [rows for cut in cuts for rows in cut]), np.cumsum(range(1, parts)))
    inverse_sizes = [1 / cut.shape[1] for cut in cuts]
    return float(np.polynomial.Polynomial.fit(inverse_sizes, [values.mean() for values in distances], 1)(0))


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """A matrix R (min(N, D), D) with R^T R the covariance of features (N, D)."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return centred if len(centred) <= centred.shape[1] else np.linalg.qr(centred, mode="r")
