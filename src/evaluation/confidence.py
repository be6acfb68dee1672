"""How far a number would move with other generated images: standard errors from random halves of them, of shares by formula.

A bootstrap's draws hold images twice, which biases FID upward, and recall and coverage downward. Halves drawn without
replacement hold none twice. Their values are biased too, as they are fewer, but all alike; only their spread is used.
"""

from typing import Any

import numpy as np

HALVES = 50  # gives the standard error to about 10 %
NORMAL_95 = 1.96  # standard errors on each side of a 95% interval


def random_halves(count: int, halves: int = HALVES, seed: int = 0) -> np.ndarray:
    """Row numbers of `halves` random halves of `count` samples, drawn without replacement: (halves, count // 2)."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(count)[: count // 2] for _ in range(halves)]) if halves else np.zeros((0, count // 2), int)


def standard_error(values: np.ndarray, count: int) -> float:
    """The standard error of a statistic of `count` samples, from its values on two or more random halves of them.

    It is the jackknife that deletes half (Shao and Wu, Ann. Statist. 17 (1989)): the standard deviation over the halves
    times (kept / deleted)^(1/2). It is right for means, and too large where the variance falls faster than 1 / N.
    """
    kept = count // 2
    return float(np.std(values, ddof=1) * np.sqrt(kept / (count - kept)))


def with_interval(values: np.ndarray, count: int, bounds: tuple[float, float] = (-np.inf, np.inf)) -> dict[str, Any]:
    """A number with its uncertainty from its values on all `count` samples (first) and on random halves of them (the rest).

    {"value", "standard_error", "interval_95"}, of which only the first is there if there are no halves. The interval, value
    +- 1.96 standard errors cut at the bounds, is that of other images of the same generator against the same reference.
    """
    value = float(values[0])
    return {"value": value} | (_interval(value, standard_error(values[1:], count), bounds) if len(values) > 1 else {})


def share_with_interval(hits: np.ndarray) -> dict[str, Any]:
    """The share of hits, bool (N,), N at least 1, with a binomial's standard error, (p (1 - p) / N)^(1/2).

    {"value", "standard_error", "interval_95", "count": N}; the interval is value +- 1.96 standard errors, cut at 0 and 1.
    """
    share = float(np.mean(hits))
    error = float(np.sqrt(share * (1 - share) / len(hits)))
    return {"value": share, **_interval(share, error, (0, 1)), "count": len(hits)}


def _interval(value: float, error: float, bounds: tuple[float, float]) -> dict[str, Any]:
    ends = np.clip(value + NORMAL_95 * error * np.array([-1, 1]), *bounds)
    return {"standard_error": error, "interval_95": ends.tolist()}
