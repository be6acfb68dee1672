import json
import sys

import numpy as np
import pytest
from PIL import Image

from src.common.cli import run_script
from src.evaluation import compare_runs
from tests.evaluation.conftest import make_images, write_images


@pytest.fixture
def runs(tmp_path):
    """Two runs: one measured at NFE 4 alone, one at 1 and 4."""
    for run, nfe, score in (("before", 4, 300.0), ("after", 4, 80.24), ("after", 1, 150.0)):
        write_images(tmp_path / run / "samples" / f"nfe={nfe}", make_images(nfe, 3))
        (tmp_path / run / "fid").mkdir(exist_ok=True)
        result = {"fid_score": score, "num_generated": 3, "num_reference": 5}
        (tmp_path / run / "fid" / f"nfe={nfe}.json").write_text(json.dumps(result))
    return tmp_path / "before", tmp_path / "after"


def call(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["summary", *map(str, arguments)])
    try:
        run_script(compare_runs.main)
    except SystemExit as end:
        return end.code
    return 0


def test_table_and_sheet(runs, monkeypatch, capsys):
    assert call(monkeypatch, *runs, "--columns", 2) == 0
    table = (runs[1] / "summary.md").read_text()
    assert table.splitlines() == [
        "| FID clean-fid, 3 vs 5 | NFE 1 | NFE 4 |",
        "|---|---|---|",
        "| before | - | 300.0 |",
        "| after | 150.0 | 80.2 |",
    ]
    assert table in capsys.readouterr().out
    sheet = np.asarray(Image.open(runs[1] / "contact_sheet.png"))
    assert sheet.shape[0] == 2 * 128
    first = make_images(1, 3)[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(sheet[:128:2, -256:-128:2], first)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run: (run / "fid" / "nfe=1.json").unlink(), "no file"),
        (lambda run: (run / "samples").rename(run / "elsewhere"), "no folders samples/nfe=K"),
        (lambda run: (run / "samples" / "nfe=1" / "0000.png").unlink(), "different numbers or sizes"),
        (
            lambda run: (run / "fid" / "nfe=1.json").write_text('{"fid_score": 1, "num_generated": 9, "num_reference": 5}'),
            "different numbers of images",
        ),
    ],
)
def test_what_cannot_be_summed_up(runs, monkeypatch, capsys, spoil, words):
    spoil(runs[1])
    assert call(monkeypatch, *runs) == 2
    assert words in capsys.readouterr().err
    assert not (runs[1] / "summary.md").exists()
