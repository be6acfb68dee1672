"""The bench of real faces in miniature: random images, a tiny network, FID's features replaced by pixels."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from recipes import mini
from recipes.mini import ENTRIES
from recipes.shared import compare as compare
from recipes.shared.bench import Bench, Entry
from src.challenges import CHALLENGES
from src.challenges.shared.images import ImageChallenge
from src.training.loop import Trainer
from tests.helpers import BOTH_PRECISIONS, TINY, call, fails, random_images


class Pixels(ImageChallenge):
    """In FID's place the distance of mean pixels."""

    def load_feature_network(self, device, file=None):
        return None

    def measure(self, samples, reference, judge, *, metrics, **others):
        return {metrics[0]: abs(float(samples.mean()) - float(reference.mean()))}


@pytest.fixture
def bench(tmp_path, monkeypatch, python_forked):
    training = {**mini.CHALLENGE.training, "batch_size": 8, "lr_warmup": 0, "log_interval": 1, "memory_format": "contiguous"}
    small = Pixels(
        name="simpsons32",
        about="random images and a tiny network",
        shape=mini.CHALLENGE.shape,
        load=lambda split, root: (random_images(24, shape=mini.CHALLENGE.shape), None),
        nfe=mini.CHALLENGE.nfe,
        num_samples=8,
        network_defaults={**TINY, "dropout": 0.0},
        training=training,
    )
    monkeypatch.setattr(mini, "CHALLENGE", small)
    monkeypatch.setattr(compare, "DOCS", tmp_path / "kit_docs")
    monkeypatch.setitem(CHALLENGES._items, "simpsons32", small)
    few = ["--images", 64, "--device", "cpu", "--out", tmp_path / "out", "--docs", tmp_path / "docs"]
    return lambda *more: call(mini, monkeypatch, *few, *more)


def steps(tmp_path, name):
    return [json.loads(line)["step"] for line in (tmp_path / "out" / name / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_rows_stages_and_report(bench, tmp_path, capsys):
    assert bench("--methods", "rectified_flow", "consistency") == 0
    assert steps(tmp_path, "rectified_flow") == list(range(1, 9))
    assert steps(tmp_path, "consistency_from_edm") == steps(tmp_path, "consistency") == list(range(1, 5))
    text = (tmp_path / "docs" / "mini.md").read_text()
    assert "| `rectified_flow` | " in text and "| 64 | " in text and "begun as edm (32 images)" in text
    assert "Not measured yet: " in text and "consistency_from_edm" not in text
    assert Image.open(tmp_path / "docs" / "images" / "mini.png").height == 6 * 32 * 2

    before = (tmp_path / "out" / "rectified_flow" / "last.ckpt").stat().st_mtime_ns
    capsys.readouterr()
    assert bench("--methods", "rectified_flow", "edm") == 0  # what is done is not done again
    assert "== rectified_flow" not in capsys.readouterr().out
    assert (tmp_path / "out" / "rectified_flow" / "last.ckpt").stat().st_mtime_ns == before
    assert "| `edm` | " in (tmp_path / "docs" / "mini.md").read_text()


@pytest.mark.slow
def test_a_row_with_options_beside_the_table_that_stands(bench, tmp_path):
    """It is trained alone, says its options, and is known to the next command; the documents' rows stand beside it."""
    compare.DOCS.mkdir()
    before = "`python -m recipes.mini`, once.\n\n| FID clean-fid, 1000 vs 1000, 32x32 | NFE 1 |\n|---|---|\n| `old` | 3.5 |\n"
    (compare.DOCS / "mini.md").write_text(before)
    assert bench("--options", "rectified_flow", "time_scale=500") == 0
    name = "rectified_flow,time_scale=500.0"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images.json", name]
    assert json.loads((tmp_path / "out" / name / "model_config.json").read_text())["time_scale"] == 500.0
    assert bench("--methods", "edm") == 0
    text = (tmp_path / "docs" / "mini.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
    assert row.endswith("| --time_distribution logit_normal --time_scale 500.0 |")
    assert (
        "| `edm` |" in text
        and "\n| `old` | 3.5 |\n" in text
        and "\nMeasured before, `old`: `python -m recipes.mini`, once.\n" in text
    )
    assert "Not measured yet: rectified_flow, " in text and (compare.DOCS / "mini.md").read_text() == before


@pytest.mark.slow
def test_students_and_pairs(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(mini, "PAIRS", 16)
    monkeypatch.setattr(mini, "PAIR_STEPS", 2)
    assert bench("--methods", "cmt", "reflow") == 0
    out = tmp_path / "out"
    assert (out / "edm" / "done").is_file() and (out / "rectified_flow" / "done").is_file()
    assert json.loads((out / "rectified_flow_pairs" / "pairs.json").read_text())["count"] == 16
    text = (tmp_path / "docs" / "mini.md").read_text()
    assert "| `cmt` | " in text and "| edm |" in text and "| rectified_flow |" in text


@BOTH_PRECISIONS
def test_an_interrupted_row_goes_on(bench, tmp_path, monkeypatch, capsys, precision):
    """In the precision in which it was begun, where auto means the other one now; the report names what was trained in."""
    monkeypatch.setenv("CHALLENGE_PRECISION", precision)
    monkeypatch.setitem(mini.CHALLENGE.training, "save_interval", 4)
    make_step, calls = Trainer.training_step, []

    def stop_at_five(self, step):
        calls.append(step)
        if step == 5 and len(calls) == 5:
            raise KeyboardInterrupt
        make_step(self, step)

    monkeypatch.setattr(Trainer, "training_step", stop_at_five)
    assert bench("--methods", "rectified_flow") != 0
    assert not (tmp_path / "docs").exists()
    monkeypatch.setenv("CHALLENGE_PRECISION", {"fp32": "bf16", "bf16": "fp32"}[precision])
    assert bench("--methods", "rectified_flow") == 0
    name = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    assert f"== rectified_flow: 8 steps of 8, {name} (continued)" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "rectified_flow" / "result.json").read_text())["precision"] == name
    assert calls == [1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert np.load(tmp_path / "out" / "rectified_flow" / "sheet.npy").shape == (3, mini.SHEET_COLUMNS, 3, 32, 32)


def test_another_number_of_images_is_refused(bench, tmp_path, monkeypatch, capsys):
    assert bench("--methods", "rectified_flow") == 0
    capsys.readouterr()
    files = ["--out", tmp_path / "out", "--docs", tmp_path / "docs", "--device", "cpu"]
    assert "holds trainings of 64 images, not 128" in fails(mini, monkeypatch, capsys, "--images", 128, *files)


def test_what_an_entry_needs_comes_first(tmp_path):
    chain = {
        "a": Entry(share=0.5),
        "b": Entry(share=0.25, after="a"),
        "c": Entry(share=0.125, after="b", teacher="t"),
        "t": Entry(),
        "d": Entry(share=0.125, after="c"),
    }
    chained = Bench(mini.CHALLENGE, chain, tmp_path, 800, torch.device("cpu"))
    assert chained.needed("c") == ["a", "b", "t"]
    assert chained.images_seen("c") == 700
    assert [chained.taught_by(name) for name in "abcd"] == ["-", "-", "t", "t"]


def test_entries_are_sound():
    for name, entry in ENTRIES.items():
        for other in (entry.after, entry.teacher):
            assert other is None or other in ENTRIES, f"{name} needs {other}, which is no entry"
