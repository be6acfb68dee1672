"""Nearest training images: against every pair, and what copying does to the numbers."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from src.evaluation import neighbours as module
from src.evaluation.neighbours import nearest, training_neighbours


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_nearest_of_every_pair(monkeypatch, kind):
    rng = np.random.default_rng(0)
    queries, base = (rng.integers(0, 256, (count, 48)).astype(kind) for count in (30, 70))
    base[13] = queries[5]
    monkeypatch.setattr(module, "BLOCK", 16)
    index, distance = nearest(queries, base)
    expected = cdist(queries.astype(np.float64), base.astype(np.float64))
    np.testing.assert_array_equal(index, expected.argmin(axis=1))
    np.testing.assert_allclose(distance, expected.min(axis=1), rtol=1e-12)
    assert (index[5], distance[5]) == (13, 0)

    rows = np.arange(0, 70, 3)
    index, distance = nearest(queries, base, rows)
    np.testing.assert_array_equal(index, rows[expected[:, rows].argmin(axis=1)])
    with pytest.raises(ValueError, match=r"got \(30, 48\) and \(0, 48\)"):
        nearest(queries, base, rows[:0])
    with pytest.raises(ValueError, match=r"\(30, 48\) and \(70, 40\)"):
        nearest(queries, base[:, :40])


def draw(rng, count):
    return rng.normal(size=(count, 6))


def test_a_generator_that_copies_nothing():
    rng = np.random.default_rng(0)
    found = training_neighbours(draw(rng, 800), draw(rng, 1000), draw(rng, 250), seed=1)
    summary = found.figures()
    assert summary["parts"] == 4 and found.to_parts.shape == (4, 800)
    assert abs(summary["gap"]) < 3 * summary["gap_spread"]
    assert summary["expected"] == 0.8
    assert summary["from_train"] == pytest.approx(0.8, abs=0.05)
    assert summary["copied_spread"] == pytest.approx(np.sqrt(0.8 * 0.2 / 800) / 0.2)
    assert abs(summary["copied"]) < 3 * summary["copied_spread"]


def test_a_generator_that_copies_half():
    rng = np.random.default_rng(0)
    train, validation = draw(rng, 1000), draw(rng, 250)
    samples = np.concatenate([train[300:700] + 1e-3, draw(rng, 400)])
    found = training_neighbours(samples, train, validation)
    np.testing.assert_array_equal(found.index[:400], np.arange(300, 700))
    summary = found.figures(unit=2.0)
    assert summary["copied"] == pytest.approx(0.5, abs=0.12)
    assert summary["gap"] > 4 * summary["gap_spread"]
    assert summary["closest"] == pytest.approx(np.sqrt(6) * 1e-3 / 2)
    assert summary["median"] == pytest.approx(np.median(found.distance) / 2)


def test_parts_and_remainder():
    """Every training image may be the nearest; a part that is too small for a fair distance counts for nothing else."""
    rng = np.random.default_rng(0)
    train, validation, samples = draw(rng, 25), draw(rng, 10), draw(rng, 9)
    found = training_neighbours(samples, train, validation)
    np.testing.assert_allclose(found.distance, cdist(samples, train).min(axis=1))
    np.testing.assert_allclose(found.to_validation, cdist(samples, validation).min(axis=1))
    assert found.to_parts.shape == (2, 9)
    assert training_neighbours(samples, train[:12], validation).figures()["gap_spread"] is None
    with pytest.raises(ValueError, match="9 training images are fewer than the 10 validation images"):
        training_neighbours(samples, train[:9], validation)
