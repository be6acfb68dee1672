import numpy as np
import pytest

from src.evaluation import points
from src.evaluation.points import chamfer, mmd, sliced_wasserstein

METRICS = [chamfer, sliced_wasserstein, mmd]


def cloud(seed, count=400):
    return np.random.default_rng(seed).standard_normal((count, 2))


def test_chamfer_by_hand():
    a, b = [[0, 0], [1, 0]], [[0, 0], [1, 2], [4, 0]]
    assert chamfer(a, b) == pytest.approx((0 + 1) + (0 + 4 + 9))  # of a's points, of b's
    assert chamfer(np.tile(a, (3, 1)), np.tile(b, (3, 1))) == pytest.approx(3 * chamfer(a, b)), "a sum"


def test_sliced_wasserstein():
    """Of a shift, on a line, where it is Wasserstein's, and by its seed."""
    a, b = cloud(0), cloud(1)
    for shift in ((0.5, 0), (3, -4)):
        assert sliced_wasserstein(a, a + shift, projections=2000) == pytest.approx(np.hypot(*shift) / np.sqrt(2), rel=0.03)
    exact = np.sqrt(((np.sort(a[:, :1], axis=0) - np.sort(b[:, :1], axis=0)) ** 2).mean())
    assert sliced_wasserstein(a[:, :1], b[:, :1], projections=3) == pytest.approx(exact)
    assert sliced_wasserstein(a, b) == sliced_wasserstein(a, b) != sliced_wasserstein(a, b, seed=1)
    with pytest.raises(ValueError, match="of one size"):
        sliced_wasserstein(a, b[1:])


def test_mmd_of_equal_and_shifted_sets():
    a = cloud(0)
    assert mmd(a, a) < 1e-12
    found = [mmd(a, a + shift) for shift in (0.1, 0.5, 2, 10)]
    assert found == sorted(found) and found[0] > 0 and found[-1] <= 2


def test_mmd_by_hand(monkeypatch):
    """The double sum as it is written, whatever the size of the blocks."""
    a, b = cloud(0, 7), cloud(1, 5)

    def mean_kernel(x, y):
        squares = ((x[:, None] - y) ** 2).sum(axis=2)
        return np.mean([np.exp(-squares / (2 * width**2)) for width in (4, 2, 1, 0.5, 0.25)])

    expected = mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)
    assert mmd(a, b) == pytest.approx(expected)
    monkeypatch.setattr(points, "BLOCK", 3)
    assert mmd(a, b) == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_order_and_sides_do_not_matter(metric):
    a, b = cloud(0), cloud(1) + 0.3
    mixed = np.random.default_rng(2).permutation(len(a))
    assert metric(a[mixed], b) == pytest.approx(metric(a, b)) == pytest.approx(metric(b, a))
    assert metric(a, a) == pytest.approx(0, abs=1e-12)
