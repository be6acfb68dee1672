"""Six sets of points in the plane. Each is a function of count and seed: float32 (count, 2), the same on every machine.

All have mean 0 and a standard deviation of 2, the root of the mean variance of the two coordinates: that of the distribution,
in closed form, not of the draw.
"""

from collections.abc import Callable

import numpy as np
from numpy import pi

STD = 2.0
MODES = 8
MODE_STD = 0.1  # of each of the eight Gaussians, whose means lie on the unit circle; before scaling, as all that follows
MOONS_NOISE = 0.05
CIRCLE_NOISE = 0.03

Raw = Callable[[np.random.Generator, int], np.ndarray]


def swiss_roll(rng: np.random.Generator, count: int) -> np.ndarray:
    """The curve (a cos a, a sin a), its angle a uniform from 1.5 to 4.5 pi: one and a half turns, without noise."""
    angle = pi * rng.uniform(1.5, 4.5, count)
    return np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1)


def moons(rng: np.random.Generator, count: int) -> np.ndarray:
    """Two half circles of radius 1 that reach into each other, with Gaussian noise."""
    angle, lower = pi * rng.random(count), rng.random(count) < 0.5
    x = np.where(lower, 1 - np.cos(angle), np.cos(angle))
    y = np.where(lower, 0.5 - np.sin(angle), np.sin(angle))
    return np.stack([x, y], axis=1) + MOONS_NOISE * rng.standard_normal((count, 2))


def s_curve(rng: np.random.Generator, count: int) -> np.ndarray:
    """Two three-quarter circles of radius 1 joined to an S, without noise."""
    angle = pi * rng.uniform(-1.5, 1.5, count)
    return np.stack([np.sin(angle), np.sign(angle) * (np.cos(angle) - 1)], axis=1)


def eight_gaussians(rng: np.random.Generator, count: int) -> np.ndarray:
    """Eight round Gaussians on a circle, equally likely."""
    angle = 2 * pi / MODES * rng.integers(MODES, size=count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) + MODE_STD * rng.standard_normal((count, 2))


def checkerboard(rng: np.random.Generator, count: int) -> np.ndarray:
    """Uniform on the eight dark squares of a board of 4 by 4 squares of side 1."""
    column, half = rng.integers(4, size=count), rng.integers(2, size=count)
    corner = np.stack([column - 2, 2 * half + column % 2 - 2], axis=1)
    return corner + rng.random((count, 2))


def circle(rng: np.random.Generator, count: int) -> np.ndarray:
    """A ring of radius 1 whose radius has Gaussian noise."""
    angle, radius = 2 * pi * rng.random(count), 1 + CIRCLE_NOISE * rng.standard_normal(count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def scaled(raw: Raw, mean: tuple[float, float], variance: float) -> Callable[[int, int], np.ndarray]:
    """raw with its mean and the mean variance of its coordinates, which are these, made 0 and STD**2."""
    return lambda count, seed: ((raw(np.random.default_rng(seed), count) - mean) * (STD / variance**0.5)).astype(np.float32)


POINT_SETS: dict[str, Callable[[int, int], np.ndarray]] = {
    "swiss_roll": scaled(swiss_roll, (2, 2 / (3 * pi)), (9.75 * pi**2 - 4 - (2 / (3 * pi)) ** 2) / 2),
    "moons": scaled(moons, (0.5, 0.25), (1.3125 - 1 / pi) / 2 + MOONS_NOISE**2),
    "s_curve": scaled(s_curve, (0, 0), 1 + 2 / (3 * pi)),
    "eight_gaussians": scaled(eight_gaussians, (0, 0), 0.5 + MODE_STD**2),
    "checkerboard": scaled(checkerboard, (0, 0), 4 / 3),
    "circle": scaled(circle, (0, 0), (1 + CIRCLE_NOISE**2) / 2),
}
