"""Figures whatever MPLBACKEND says, in processes of their own: matplotlib reads it once."""

import os
import subprocess
import sys

import numpy as np
import pytest

from src.common.figures import Figure, as_picture
from src.common.files import PROJECT_ROOT
from tests.helpers import slow_but

DRAWN = """
import io, os, sys
from src.common.figures import Figure
Figure().savefig(io.BytesIO(), format="png")
import matplotlib
print(matplotlib.rcParams._get_backend_or_none(), os.environ["MPLBACKEND"], "matplotlib.pyplot" in sys.modules)
"""


BACKENDS = [("module://no_such.backend", None), ("of_nobody", "None"), ("PDF", "PDF")]


@pytest.mark.parametrize(("backend", "taken"), slow_but([("PDF", "PDF")], BACKENDS))
def test_no_backend_is_needed_and_none_is_changed(backend, taken):
    """A name that is not installed is passed over, as Jupyter's is without matplotlib-inline; another is what pyplot takes."""
    environment = {**os.environ, "MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", DRAWN], cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [taken or backend, backend, "False"]


def test_a_matplotlib_that_is_there_stays_as_it_is():
    code = 'import os, matplotlib\nmatplotlib.use("svg")\nos.environ["MPLBACKEND"] = "pdf"\n'
    code += "import src.common.figures\nprint(matplotlib.get_backend())"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "svg"


def test_a_figure_as_a_picture():
    figure = Figure(figsize=(2, 1), dpi=50, facecolor="red")
    pixels = np.asarray(as_picture(figure))
    assert pixels.shape == (50, 100, 3) and (pixels == (255, 0, 0)).all()
