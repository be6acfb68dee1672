"""Small labelled images that only their pattern tells apart: stripes that lie, stripes that stand, and chequers."""

import numpy as np

NAMES = ("lying", "standing", "chequers")  # labels 1, 2, 3


def make_patterns(seed: int, count: int, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (count, 3, size, size), in two colours at random with noise, and their labels, int64, in turn."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % len(NAMES) + 1
    y, x = np.mgrid[:size, :size]
    images = np.empty((count, 3, size, size))
    for image, label in zip(images, labels, strict=True):
        rows, columns = ((place + rng.integers(4)) // 2 % 2 for place in (y, x))
        pattern = (rows, columns, (rows + columns) % 2)[label - 1]
        dark, light = rng.uniform(20, 110, 3), rng.uniform(150, 235, 3)
        image[:] = np.where(pattern, light[:, None, None], dark[:, None, None])
    return (images + rng.normal(0, 8, images.shape)).clip(0, 255).astype(np.uint8), labels
