"""The bench of points in the plane, in miniature."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import toy2d
from src.methods import get_method, register
from src.methods._base import _REGISTRY
from tests.helpers import call, fails


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Runs the bench's command line with small numbers; its exit code."""
    monkeypatch.setattr(toy2d, "CHALLENGE", replace(toy2d.CHALLENGE, num_samples=64, nfe=(1, 3)))
    monkeypatch.setattr(toy2d, "TRAIN_POINTS", 512)
    files = ["--out", tmp_path / "out", "--table", tmp_path / "docs" / "t.md", "--figure", tmp_path / "docs" / "f.png"]
    few = ["--methods", "rectified_flow", "--sets", "swiss_roll", "--iterations", "20", "--seeds", "1", "--jobs", "1"]
    threads = torch.get_num_threads()
    yield lambda *more: call(toy2d, monkeypatch, *few, *files, *more)
    torch.set_num_threads(threads)


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]


def test_run_is_stored_and_not_repeated(bench, tmp_path, capsys):
    assert bench() == 0
    (row,) = lines(tmp_path)
    assert row["run"] == {"method": "rectified_flow", "data": "swiss_roll", "seed": 0, "iterations": 20}
    assert set(row["figures"]) == {"1", "3"} and set(row["figures"]["3"]) == {"chamfer", "sliced_w2", "mmd"}
    text = (tmp_path / "docs" / "t.md").read_text()
    assert "| swiss_roll | rectified_flow | " in text and "*real points*" in text and "Missing" not in text
    assert Image.open(tmp_path / "docs" / "f.png").width > 200
    with np.load(tmp_path / "out" / "points" / "rectified_flow-swiss_roll-0-20.npz") as points:
        assert points["3"].shape == (64, 2)

    capsys.readouterr()
    assert bench() == 0
    assert "1 of them there already, 0 to do" in capsys.readouterr().out
    assert lines(tmp_path) == [row]
    assert bench("--seeds", "2") == 0  # a second seed is one more run
    again = lines(tmp_path)
    assert again[0] == row and again[1]["run"]["seed"] == 1 and again[1]["figures"] != row["figures"]


def test_a_run_follows_from_its_seed(bench, tmp_path, monkeypatch):
    assert bench() == 0
    first = lines(tmp_path)[0]
    (tmp_path / "out" / "runs.jsonl").unlink()
    assert bench() == 0
    assert lines(tmp_path)[0]["figures"] == first["figures"]
    monkeypatch.setitem(toy2d.OPTIONS, "rectified_flow", {"time_scale": 500.0})  # another option: another run
    assert bench() == 0
    assert len(lines(tmp_path)) == 2 and lines(tmp_path)[1]["key"] != first["key"]


def test_unfinished_line_is_dropped(bench, tmp_path):
    assert bench() == 0
    with open(tmp_path / "out" / "runs.jsonl", "a") as file:
        file.write('{"run": {"meth')
    assert bench("--seeds", "2") == 0
    assert [row["run"]["seed"] for row in lines(tmp_path)] == [0, 1]


def test_report_of_a_part_says_what_is_missing(bench, tmp_path):
    assert bench() == 0
    assert bench("--report_only", "--sets", "swiss_roll", "moons") == 0
    text = (tmp_path / "docs" / "t.md").read_text()
    assert "**Missing: 1 of 2 runs**: rectified_flow on moons seed 0." in text
    assert "| moons | rectified_flow | - | - |" in text
    assert len(lines(tmp_path)) == 1


def test_requirement_in_the_table(bench, tmp_path, monkeypatch):
    easy, hard = (replace(toy2d.CHALLENGE.passes[0], method="rectified_flow", nfe=3, below=below) for below in (1e9, 1e-9))
    monkeypatch.setattr(toy2d, "CHALLENGE", replace(toy2d.CHALLENGE, passes=(easy, hard)))
    assert bench() == 0
    text = (tmp_path / "docs" / "t.md").read_text()
    assert text.count("**pass**") == text.count("**fail**") == 1


def test_failing_and_diverging_methods(bench, tmp_path, capsys, monkeypatch):
    """One that raises does not stop the others, and is not stored; one that diverges is stored as such."""
    base = get_method("rectified_flow")

    class Raises(base):
        def compute_loss(self, data, noise, **kwargs):
            raise RuntimeError("planted")

    class Diverges(base):
        def sample(self, *args, **kwargs):
            return super().sample(*args, **kwargs) * torch.inf

    try:
        register("raises")(Raises)
        register("diverges")(Diverges)
        assert bench("--methods", "raises", "diverges") == 2
    finally:
        for name in ("raises", "diverges"):
            _REGISTRY.pop(name, None)
    captured = capsys.readouterr()
    assert "planted" in captured.out and "1 of 2 runs failed" in captured.err
    assert [row["run"]["method"] for row in lines(tmp_path)] == ["diverges"]
    assert "| swiss_roll | diverges | not finite | not finite |" in (tmp_path / "docs" / "t.md").read_text()


def test_hooks_are_called(bench, monkeypatch):
    """Two parameter groups are stepped in turn, each at its pace, and the end of every step is told."""
    calls = []

    class Hooked(get_method("rectified_flow")):
        def optim_groups(self):
            first, *rest = self.network.parameters()
            return {"network": rest, "first": [first]}

        def compute_loss(self, data, noise, *, step, total_steps, group):
            calls.append((step, group))
            return super().compute_loss(data, noise)

        def on_step_end(self, step, total_steps):
            calls.append((step, total_steps))

        def lr_scale(self, group):
            return 0.0 if group == "first" else 1.0

        def betas(self, group):
            asked.append(group)
            return 0.5, 0.99

    asked = []
    try:
        register("hooked")(Hooked)
        model, _ = toy2d.train(toy2d.Run("hooked", "moons", 0, 2))
    finally:
        _REGISTRY.pop("hooked", None)
    assert calls == [(1, "network"), (1, "first"), (1, 2), (2, "network"), (2, "first"), (2, 2)]
    assert asked == ["network", "first"]
    torch.manual_seed(0)
    untrained = toy2d.CHALLENGE.network(False)
    assert [torch.equal(a, b) for a, b in zip(model.network.parameters(), untrained.parameters(), strict=True)][:2] == [
        True,
        False,
    ]


def test_unknown_method_is_refused(monkeypatch, capsys):
    assert "invalid choice" in fails(toy2d, monkeypatch, capsys, "--methods", "custom")
