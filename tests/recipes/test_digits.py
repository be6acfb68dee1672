"""The experiment on digits in miniature: random images, a tiny network, FID's features replaced by pixels."""

import json

import numpy as np
import pytest
from PIL import Image

from recipes import digits
from recipes.digits import ENTRIES, best_rows, nfes
from recipes.shared import compare as compare
from src.challenges import CHALLENGES
from src.challenges.mnist import DigitsChallenge
from src.methods import METHODS, method_names
from tests import shipped
from tests.helpers import TINY, call, fails

COUNT = 8


class Pixels(DigitsChallenge):
    """In FID's place the distance of mean pixels."""

    def load_feature_network(self, device, file=None):
        return None

    def measure(self, samples, reference, judge, **others):
        assert samples.shape == (COUNT, 3, 28, 28)
        return {self.metric: 1 + abs(float(samples.mean()) - float(reference.mean()))}


@pytest.fixture
def bench(tmp_path, monkeypatch, python_forked):
    rng = np.random.default_rng(0)
    changes = {
        "load": lambda split, root: (rng.integers(0, 256, (24, 1, 28, 28), dtype=np.uint8), None),
        "network_defaults": {**TINY, "dropout": 0.0},
        "training": {**digits.CHALLENGE.training, "batch_size": 8, "log_interval": 1, "memory_format": "contiguous"},
        "nfe": (1,),
    }
    fields = {name: getattr(digits.CHALLENGE, name) for name in digits.CHALLENGE.__dataclass_fields__}
    small = Pixels(**{**fields, **changes})
    monkeypatch.setattr(digits, "CHALLENGE", small)
    monkeypatch.setattr(compare, "DOCS", tmp_path / "kit_docs")
    monkeypatch.setattr(digits, "MANY", 5)
    monkeypatch.setitem(CHALLENGES._items, "mnist", small)
    few = ["--images", 64, "--num_samples", COUNT, "--device", "cpu", "--out", tmp_path / "out", "--docs", tmp_path / "docs"]
    return lambda *more: call(digits, monkeypatch, *few, *more)


def test_rows_and_report(bench, tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "digits.md").write_text(f"# By hand\n\n{digits.BEGIN}\nold\n{digits.END}\n\nMore by hand.\n")
    assert bench("--methods", "rectified_flow", "consistency") == 0
    text = (tmp_path / "docs" / "digits.md").read_text()
    assert text.startswith("# By hand\n\n") and text.endswith("\n\nMore by hand.\n") and "old" not in text
    (row,) = [line for line in text.splitlines() if line.startswith("| `rectified_flow` |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert all(float(cell) >= 1 for cell in cells[1:5]) and cells[5:7] == ["1", "64"] and cells[8] == "-"
    (row,) = [line for line in text.splitlines() if line.startswith("| `consistency` |")]
    assert row.split("|")[5].strip() == "-" and "begun as edm (32 images)" in row
    assert "Not measured yet: ddpm" in text
    assert Image.open(tmp_path / "docs" / "images" / "digits.png").height == 6 * 28

    result = tmp_path / "out" / "rectified_flow" / "result.json"
    told = json.loads(result.read_text())
    del told["fid_nfe2"]  # a measurement that an interruption kept from being made
    result.write_text(json.dumps(told))
    stamp = (tmp_path / "out" / "rectified_flow" / "last.ckpt").stat().st_mtime_ns
    capsys.readouterr()
    assert bench("--methods", "rectified_flow") == 0
    out = capsys.readouterr().out
    assert "rectified_flow, seed 42, NFE 2: FID" in out and "NFE 4: FID" not in out and "==" not in out
    assert (tmp_path / "out" / "rectified_flow" / "last.ckpt").stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_every_row(bench, tmp_path, monkeypatch):
    """Two steps each, teachers, pairs and stages included."""
    monkeypatch.setattr(digits, "PAIR_STEPS", 2)
    assert bench("--pairs", 16, "--seeds", 1) == 0
    text = (tmp_path / "docs" / "digits.md").read_text()
    assert "Not measured yet" not in text
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == sum(entry.row for entry in ENTRIES.values())
    assert all(float(cell) >= 1 for row in rows for cell in row[2:5])
    many = {"rectified_flow", "ddpm", "edm", "shortcut", "meanflow", "flow_map", "reflow", "ctm"}
    assert {row[1].strip(" `") for row in rows if row[5].strip() != "-"} & {*shipped.METHODS} == many


@pytest.mark.slow
def test_the_best_have_more_seeds(bench, tmp_path, monkeypatch):
    """Once all rows are measured; teachers are those of the first seed."""
    few = {name: ENTRIES[name] for name in ("rectified_flow", "edm", "cmt")}
    monkeypatch.setattr(digits, "ENTRIES", few)
    monkeypatch.setattr(digits, "BEST", 3)
    assert bench("--methods", "rectified_flow") == 0
    assert not (tmp_path / "out" / "seed_1").exists()
    assert bench("--methods", *few, "--seeds", 2) == 0
    seeds = tmp_path / "out" / "seed_1"
    assert sorted(path.name for path in seeds.iterdir()) == ["cmt", "edm", "images.json", "rectified_flow"]
    assert json.loads((seeds / "cmt" / "training_config.json").read_text())["seed"] == 43
    text = (tmp_path / "docs" / "digits.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| `cmt` |")]
    assert " ± " in row.split("|")[2] and row.split("|")[6].strip() == "2"


def test_another_number_of_samples_is_refused(bench, tmp_path, monkeypatch, capsys):
    assert bench("--methods", "rectified_flow") == 0
    capsys.readouterr()
    files = ["--out", tmp_path / "out", "--docs", tmp_path / "docs", "--device", "cpu"]
    line = fails(digits, monkeypatch, capsys, "--methods", "rectified_flow", "--images", 64, "--num_samples", 9, *files)
    assert "has FIDs of 8 samples, not 9" in line


def test_entries_are_sound():
    for name, entry in ENTRIES.items():
        for other in (entry.after, entry.teacher, entry.pairs):
            assert other is None or other in ENTRIES, f"{name} needs {other}, which is no entry"
        method = METHODS.get(entry.method or name)
        assert bool(entry.teacher) == method.needs_teacher, name
        assert bool(entry.pairs) == method.needs_pairs, name
        assert nfes(name, entry) in ([1, 2, 4], [1, 2, 4, 50])
    assert {entry.method or name for name, entry in ENTRIES.items()} == set(method_names()) - {"custom"}


def test_best_rows():
    results = {
        name: {f"fid_nfe{nfe}": value for nfe in (1, 2, 4)} for name, value in zip("abcde", (5, 3, 9, 1, 7), strict=True)
    }
    assert best_rows(results) == ["d", "b", "a"]
