"""Standard errors from halves: against what repeated draws from known distributions really do."""

import numpy as np
import pytest

from src.evaluation.confidence import random_halves, share_with_interval, standard_error, with_interval
from src.evaluation.fid import frechet_distance, subset_distances
from src.evaluation.kid import subset_kids
from src.evaluation.prdc import subset_prdc


def test_halves_hold_no_row_twice():
    halves = random_halves(11, 4, seed=3)
    assert halves.shape == (4, 5)
    assert all(len(set(half)) == 5 and set(half) <= set(range(11)) for half in halves)
    np.testing.assert_array_equal(halves, random_halves(11, 4, seed=3))
    assert random_halves(11, 0).shape == (0, 5)


@pytest.mark.parametrize("count", [400, 401])
def test_of_a_mean_it_is_the_textbooks(count):
    values = np.random.default_rng(0).normal(5, 2, count)
    halves = np.array([values[half].mean() for half in random_halves(count, 4000)])
    assert standard_error(halves, count) == pytest.approx(values.std(ddof=1) / np.sqrt(count), rel=0.05)


def test_interval():
    result = with_interval(np.array([0.9, 0.8, 1.0]), 10, bounds=(0, 1))
    assert result == {
        "value": 0.9,
        "standard_error": pytest.approx(np.sqrt(0.02)),
        "interval_95": [pytest.approx(0.6228, abs=1e-4), 1.0],
    }
    assert with_interval(np.array([0.9]), 10) == {"value": 0.9}


def test_a_share_has_the_error_of_a_binomial():
    assert share_with_interval(np.array([True] * 3 + [False])) == {
        "value": 0.75,
        "standard_error": pytest.approx((0.75 * 0.25 / 4) ** 0.5),
        "interval_95": [pytest.approx(0.75 - 1.96 * (0.75 * 0.25 / 4) ** 0.5), 1.0],
        "count": 4,
    }
    assert share_with_interval(np.zeros(9, bool)) == {"value": 0, "standard_error": 0, "interval_95": [0, 0], "count": 9}
    rng = np.random.default_rng(0)
    shares = [share_with_interval(rng.random(200) < 0.9) for _ in range(2000)]
    deviation = np.std([share["value"] for share in shares])
    assert np.mean([share["standard_error"] for share in shares]) == pytest.approx(deviation, rel=0.05)
    held = np.mean([share["interval_95"][0] <= 0.9 <= share["interval_95"][1] for share in shares])
    assert 0.91 <= held <= 0.97


def draws(rng, count, scale):
    return rng.normal(size=(count, len(scale))) * scale + 0.3


@pytest.mark.parametrize(("count", "dimensions"), [(80, 8), (80, 160)])  # more rows than columns, and fewer
def test_interval_of_fid_holds_the_mean_of_other_draws(count, dimensions):
    """Of a Gaussian whose distance to the reference's is known: the standard error is the deviation of FID over draws, and 95%
    intervals hold FID's mean over draws. A bootstrap's middle lies more than a deviation above it, for its duplicates."""
    rng = np.random.default_rng(0)
    scale = np.linspace(0.5, 1.5, dimensions)
    reference = rng.normal(size=(2 * count, dimensions))
    sets = [draws(rng, count, scale) for _ in range(150)]
    scores = np.array([frechet_distance(rows, reference) for rows in sets])
    results = [
        with_interval(np.array([score, *subset_distances(rows, reference, list(random_halves(count, 20, seed)))]), count)
        for seed, (rows, score) in enumerate(zip(sets[:60], scores, strict=False))
    ]
    errors = np.array([result["standard_error"] for result in results])
    assert errors.mean() == pytest.approx(scores.std(ddof=1), rel=0.25)
    held = np.mean([low <= scores.mean() <= high for low, high in (result["interval_95"] for result in results)])
    assert held >= 0.85
    bootstrap = [frechet_distance(rows[rng.integers(0, count, count)], reference) for rows in sets[:60]]
    assert np.mean(bootstrap - scores[:60]) > scores.std(), "the bootstrap would have done"


def test_errors_of_kernel_distance_and_neighbourhoods():
    """Against their deviation over draws, where generated and reference features differ."""
    rng = np.random.default_rng(1)
    scale = np.linspace(0.5, 1.5, 8)
    reference = rng.normal(size=(120, 8))
    deviations, errors = [], []
    for seed in range(60):
        rows = draws(rng, 120, scale)
        subsets = [np.arange(120), *random_halves(120, 20, seed)]
        found = {"kid": subset_kids(rows, reference, subsets), **subset_prdc(rows, reference, subsets)}
        deviations.append([values[0] for values in found.values()])
        errors.append([standard_error(values[1:], 120) for values in found.values()])
    ratio = np.mean(errors, axis=0) / np.std(deviations, axis=0, ddof=1)
    assert ratio.min() > 0.7 and ratio.max() < 1.8, ratio
