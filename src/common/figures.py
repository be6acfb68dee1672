"""matplotlib without a backend: nothing here shows windows, so what MPLBACKEND names is neither needed nor changed.

All of the project takes matplotlib from here: `from src.common.figures import Figure, matplotlib`. A Figure is written by its
own savefig, or made a picture by as_picture; pyplot is left to whoever shows figures, as notebooks do.

Colab and Jupyter set MPLBACKEND for all programs that they start, in environments without that backend too, where the import
of matplotlib itself would end in an error. So it is imported without the variable, and then told what that says.
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
