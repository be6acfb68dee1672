"""Precision, recall, density and coverage: what each is there to tell, loops by the papers' definitions, torch-fidelity."""

import numpy as np
import pytest
import torch

from src.evaluation import prdc as module
from src.evaluation.prdc import prdc, subset_prdc


def by_definition(generated, reference):
    """The papers' formulas, a pair at a time."""

    def ball(rows, i, k):
        return sorted(np.linalg.norm(rows[i] - other) for j, other in enumerate(rows) if j != i)[k - 1]

    def inside(points, rows, k):  # [i][j]: point i in the ball of row j
        return np.array([[np.linalg.norm(x - y) <= ball(rows, j, k) for j, y in enumerate(rows)] for x in points])

    return {
        "precision": inside(generated, reference, 3).any(axis=1).mean(),
        "recall": inside(reference, generated, 3).any(axis=1).mean(),
        "density": inside(generated, reference, 5).sum() / (5 * len(generated)),
        "coverage": inside(generated, reference, 5).any(axis=0).mean(),
    }


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    return rng.normal(0.3, 0.8, size=(30, 4)), rng.normal(size=(25, 4))


def test_are_their_definitions(sets, monkeypatch):
    expected = by_definition(*sets)
    assert all(0 < value < 1.5 for value in expected.values()) and len(set(expected.values())) == 4
    assert prdc(*sets) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert prdc(*sets) == pytest.approx(expected, abs=1e-12)
    rng = np.random.default_rng(1)
    assert prdc(rng.permutation(sets[0]), rng.permutation(sets[1])) == pytest.approx(expected, abs=1e-12)


def test_subsets(sets):
    generated, reference = sets
    subsets = [np.arange(0, 30, 2), np.array([29, 3, 4, 17, 8, 11, 0])]
    found = subset_prdc(generated, reference, subsets)
    for i, rows in enumerate(subsets):
        assert {name: values[i] for name, values in found.items()} == pytest.approx(by_definition(generated[rows], reference))


def test_are_those_of_torch_fidelity(feature_sets):
    theirs = pytest.importorskip(
        "torch_fidelity.metric_prc", reason="torch-fidelity is not installed: pip install torch-fidelity"
    )
    for generated, reference in (feature_sets, (np.concatenate([feature_sets[0][:4], feature_sets[1][:18]]), feature_sets[1])):
        tensors = [torch.from_numpy(rows).double() for rows in (generated, reference)]
        expected = theirs.prc_features_to_metric(*tensors, prc_neighborhood=3, verbose=False)
        found = prdc(generated, reference)
        assert found["precision"] == pytest.approx(expected["precision"], abs=1e-3)
        assert found["recall"] == pytest.approx(expected["recall"], abs=1e-3)
    assert 0 < expected["precision"] < 1


def modes(counts, seed):
    """Points around as many corners as there are counts, far from each other."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(count, 8)) + 100 * np.eye(8)[i] for i, count in enumerate(counts)])


def test_mode_collapse_has_high_precision_and_low_recall():
    found = prdc(modes([80, 0, 0, 0], 1), modes([20, 20, 20, 20], 2))
    assert found["precision"] > 0.6 and found["density"] > 0.6
    assert found["recall"] <= 0.25 and found["coverage"] <= 0.25


def test_all_modes_and_others_have_low_precision_and_high_recall():
    found = prdc(modes([20, 20, 20, 20, 20, 20, 20, 20], 1), modes([20, 20, 0, 0, 0, 0, 0, 0], 2))
    assert found["precision"] <= 0.25 and found["density"] <= 0.35
    assert found["recall"] > 0.6 and found["coverage"] > 0.8


def test_one_image_many_times_recalls_that_image_alone():
    """Copies have balls of radius 0, which rounding must not fill."""
    rng = np.random.default_rng(0)
    reference = rng.normal(5, 1, size=(40, 300))
    found = prdc(np.repeat(reference[:1], 30, axis=0), reference)
    assert found["precision"] == 1 and found["recall"] == 1 / 40
    assert found["coverage"] < 0.7
    assert prdc(np.repeat(reference[:1] + 1e-3, 30, axis=0), reference)["recall"] == 0


def test_identical_sets():
    rows = np.random.default_rng(0).normal(size=(40, 5))
    found = prdc(rows, rows)
    assert found["precision"] == found["recall"] == found["coverage"] == 1
    assert found["density"] == pytest.approx(6 / 5)  # five neighbours' balls on average, and its own
