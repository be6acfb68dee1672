"""What no distance between two sets of rows takes."""

import numpy as np
import pytest

from src.evaluation.fid import distance_from_statistics, frechet_distance, subset_distances
from src.evaluation.kid import kid
from src.evaluation.points import chamfer, mmd, sliced_wasserstein
from src.evaluation.prdc import prdc

ROWS = np.random.default_rng(0).normal(size=(9, 3))


@pytest.mark.parametrize(
    ("distance", "minimum"),
    [
        (frechet_distance, 2),
        (lambda a, b: subset_distances(a, b, []), 2),
        (lambda a, b: distance_from_statistics(a, b[0], np.eye(b.shape[1])) if len(b) else kid(a, b), 2),
        (kid, 2),
        (prdc, 6),
        (chamfer, 1),
        (mmd, 1),
        (sliced_wasserstein, 1),
    ],
)
def test_what_has_no_distance(distance, minimum):
    for a, b, words in (
        (ROWS[: minimum - 1], ROWS, f"at least {minimum} rows in each set, got {minimum - 1} and "),
        (ROWS, ROWS[:, :2], r"got \(9, 3\) and \(\d, 2\)"),
        (ROWS.ravel(), ROWS, r"got \(27,\)"),
        (np.where(ROWS[3] == ROWS, np.nan, ROWS), ROWS, "not finite"),
        (ROWS, np.full((9, 3), np.inf), "not finite"),
    ):
        with pytest.raises(ValueError, match=words):
            distance(a, b)
