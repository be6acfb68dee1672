"""KID by its definition, pair by pair, and by the packages on the same features."""

import numpy as np
import pytest
import torch

from src.evaluation import kid as module
from src.evaluation.kid import kid, sampled_kids, subset_kids


def by_definition(a, b):
    def kernel(x, y):
        return (x @ y / len(x) + 1) ** 3

    def within(rows):
        return np.mean([kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j])

    return within(a) + within(b) - 2 * np.mean([kernel(x, y) for x in a for y in b])


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    return rng.normal(size=(13, 6)), rng.normal(0.4, 1.2, size=(9, 6))


def test_is_its_definition(sets, monkeypatch):
    expected = by_definition(*sets)
    assert kid(*sets) == pytest.approx(expected, rel=1e-12)
    assert kid(*sets[::-1]) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(module, "BLOCK", 4)
    assert kid(*sets) == pytest.approx(expected, rel=1e-12)
    order = np.random.default_rng(1).permutation(13)
    assert kid(sets[0][order], sets[1]) == pytest.approx(expected, rel=1e-12)


def test_subsets(sets):
    a, b = sets
    subsets = [np.array([0, 5, 7]), np.array([12, 3, 1, 2, 9])]
    expected = [by_definition(a[rows], b) for rows in subsets]
    np.testing.assert_allclose(subset_kids(a, b, subsets), expected, rtol=1e-12)
    np.testing.assert_allclose(sampled_kids(a, b, subsets=5, size=1000)[:0], [])
    assert np.ptp(sampled_kids(b, b, subsets=5, size=1000)) < 1e-12, "subsets of all rows are all the same"
    assert sampled_kids(a, b, subsets=400, size=5).mean() == pytest.approx(
        kid(a, b), abs=0.15 * sampled_kids(a, b, 400, 5).std()
    )


def test_is_unbiased():
    """Of two draws from one distribution it is 0 on average, for any number of rows; FID is not."""
    rng = np.random.default_rng(0)
    values = [kid(rng.normal(size=(10, 4)), rng.normal(size=(20, 4))) for _ in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20
    assert min(values) < 0 < max(values)


def test_is_that_of_the_packages(feature_sets):
    a, b = (rows.astype(np.float64) for rows in feature_sets)
    clean = pytest.importorskip("cleanfid.fid", reason="clean-fid is not installed: pip install clean-fid")
    assert kid(a, b) > 0.01
    assert kid(a, b) == pytest.approx(clean.kernel_distance(a, b, num_subsets=2), abs=1e-6)
    fidelity = pytest.importorskip(
        "torch_fidelity.metric_kid", reason="torch-fidelity is not installed: pip install torch-fidelity"
    )
    tensors = [torch.from_numpy(rows) for rows in (a, b)]
    theirs = fidelity.kid_features_to_metric(*tensors, kid_subsets=2, kid_subset_size=len(a), verbose=False)
    assert kid(a, b) == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-6)
    theirs = fidelity.kid_features_to_metric(*tensors, kid_subsets=300, kid_subset_size=6, verbose=False)
    ours = sampled_kids(a, b, subsets=300, size=6)
    assert ours.std() == pytest.approx(theirs["kernel_inception_distance_std"], rel=0.2)
    assert ours.mean() == pytest.approx(theirs["kernel_inception_distance_mean"], abs=0.25 * ours.std())
