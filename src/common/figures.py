"""matplotlib without a backend and without pyplot, for all of the project: `from src.common.figures import Figure, matplotlib`.

Colab and Jupyter set MPLBACKEND for all programs that they start, also where that backend is not installed and the import of
matplotlib would fail. So it is imported without the variable, which is taken into account afterwards.
"""

import contextlib
import os
import sys

import numpy as np
from PIL import Image

_backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib.collections
    import matplotlib.colors
    import matplotlib.ticker
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
finally:
    if _backend is not None:
        os.environ["MPLBACKEND"] = _backend
if _backend:
    with contextlib.suppress(ValueError):  # one that is not installed
        matplotlib.rcParams["backend"] = _backend

__all__ = ["Figure", "as_picture", "matplotlib"]


def as_picture(figure: Figure) -> Image.Image:
    """A figure drawn as an RGB picture of its size in inches times its dpi."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
