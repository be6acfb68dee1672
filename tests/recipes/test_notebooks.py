"""The recipe that executes the notebooks and writes them back."""

import json

import pytest

from recipes import notebooks
from tests.helpers import call, fails

BAR = 'print("10 %", end="\\r")\nprint("100 %")'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a notebook: settings, a command, and what is like a progress bar."""
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package, reason="pip install nbclient ipykernel")
    sources = ["count = 2", "!python -c 'import sys; print(sys.prefix)'\nimport sys\nprint(sys.prefix, count)", BAR]
    cells = [
        {"cell_type": "code", "id": str(i), "metadata": {}, "source": source, "outputs": [], "execution_count": None}
        for i, source in enumerate(sources)
    ]
    cells[0]["metadata"]["tags"] = ["settings"]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "one.ipynb").write_text(json.dumps(notebook))
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    return tmp_path


def test_outputs_are_written_back(folder, monkeypatch):
    """Commands run by the same interpreter; of a progress bar the end is kept."""
    assert call(notebooks, monkeypatch, "--notebooks", "one") == 0
    cells = json.loads((folder / "one.ipynb").read_text())["cells"]
    assert [cell["execution_count"] for cell in cells] == [1, 2, 3]
    texts = ["".join(output["text"]) for cell in cells for output in cell["outputs"]]
    theirs, ours = texts[0].split("\n")[:2]
    assert ours == f"{theirs} 2" and texts[1] == "100 %\n"


def test_a_failing_cell_is_one_line(folder, monkeypatch, capsys):
    before = (folder / "one.ipynb").read_text().replace("count = 2", "count = 2 / 0")
    (folder / "one.ipynb").write_text(before)
    assert "ZeroDivisionError: division by zero" in fails(notebooks, monkeypatch, capsys)
    assert (folder / "one.ipynb").read_text() == before
