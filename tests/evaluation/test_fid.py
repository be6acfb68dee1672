"""The Fréchet distance against closed forms and SciPy's matrix root."""

import numpy as np
import pytest
from scipy import linalg

from src.evaluation.fid import fid_infinity, frechet_distance, subset_distances


def by_matrix_root(a, b):
    """The textbook form, with the full covariances; their product's root by its eigenvalues, as they may be singular."""
    difference = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    trace = np.sqrt(linalg.eigvals(cov_a @ cov_b).real.clip(0)).sum()
    return difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * trace


def features(seed, rows, columns, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns)) / np.sqrt(columns) + shift


@pytest.mark.parametrize("rows", [20, 500])
def test_equal_covariances_leave_the_distance_of_the_means(rows):
    a, shift = features(0, rows, 64), np.linspace(-1, 2, 64)
    assert abs(frechet_distance(a, a)) < 1e-6
    assert frechet_distance(a, a + shift) == pytest.approx(shift @ shift, rel=1e-9)


def test_diagonal_gaussians_have_their_closed_form():
    rng = np.random.default_rng(0)
    sigma_a, sigma_b, shift = np.array([1.0, 2.0, 0.5, 3.0]), np.array([2.0, 2.0, 1.0, 0.1]), np.array([0.0, 1.0, -2.0, 0.5])
    a = rng.normal(size=(100_000, 4)) * sigma_a
    b = rng.normal(size=(100_000, 4)) * sigma_b + shift
    assert frechet_distance(a, b) == pytest.approx(shift @ shift + ((sigma_a - sigma_b) ** 2).sum(), rel=1e-2)


@pytest.mark.parametrize(("rows", "others"), [(300, 400), (64, 65), (65, 300), (30, 40), (30, 400), (2, 2)])
def test_agrees_with_the_matrix_root_on_both_sides_of_n_equal_d(rows, others):
    a, b = features(1, rows, 64), features(2, others, 64, shift=0.3)
    distance = frechet_distance(a, b)
    assert distance == pytest.approx(by_matrix_root(a, b), rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(a[::-1], b) == pytest.approx(distance, rel=1e-10)
    shifted = [(rows + 1000).astype(np.float32) for rows in (a, b)]  # summed in float64
    expected = frechet_distance(*(rows.astype(np.float64) for rows in shifted))
    assert frechet_distance(*shifted) == pytest.approx(expected, rel=1e-12)


# ------------------------------------------------------------------------------------------ parts of a set, endless sets


@pytest.mark.parametrize(("rows", "others"), [(40, 30), (40, 200), (200, 300)])
def test_subsets_are_those_of_the_distance(rows, others):
    a, b = features(1, rows, 64), features(2, others, 64, shift=0.3)
    subsets = [np.arange(rows), np.array([5, 3]), np.arange(0, rows, 2), np.arange(rows)[::-1][: rows // 3]]
    expected = [frechet_distance(a[chosen], b) for chosen in subsets]
    np.testing.assert_allclose(subset_distances(a, b, subsets), expected, rtol=1e-6)
    assert subset_distances(a, b, []).shape == (0,)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_infinity_takes_most_of_the_bias_away(shift):
    """Of a Gaussian that is the reference's, moved by a known distance: the mean over draws against the truth."""
    rng, dimensions, count = np.random.default_rng(0), 10, 120
    base = rng.normal(size=(20_000, dimensions))  # so many that its own bias is small
    truth = dimensions * shift**2
    sets = [rng.normal(size=(count, dimensions)) + shift for _ in range(40)]
    biased = np.mean([frechet_distance(rows, base) for rows in sets]) - truth
    values = [fid_infinity(rows, base, seed=seed) for seed, rows in enumerate(sets)]
    left, error = np.mean(values) - truth, np.std(values) / np.sqrt(len(values))
    assert biased > 0.1
    assert abs(left) < 0.2 * biased + 2 * error


def test_infinity_is_the_line_through_the_parts():
    a, b = features(1, 30, 16), features(2, 40, 16)
    order = np.random.default_rng(7).permutation(30)
    halves = np.mean([frechet_distance(a[rows], b) for rows in (order[:15], order[15:])])
    assert fid_infinity(a, b, parts=2, seed=7) == pytest.approx(2 * frechet_distance(a, b) - halves, rel=1e-6)
    with pytest.raises(ValueError, match="4 parts need at least 8 rows, got 7"):
        fid_infinity(a[:7], b)
