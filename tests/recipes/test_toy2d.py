"""The experiment with points in the plane, in miniature."""

import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from recipes import toy2d
from recipes.shared import compare as compare
from recipes.shared import toy2d_tables as tables
from src.challenges import toy2d as challenge_file
from src.common.checkpoints import save_model
from src.common.devices import seed_everything
from src.methods import METHODS, get_method, method_names, register
from src.methods.shared.student import Student
from tests.helpers import call


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Runs the bench's command line with small numbers; its exit code."""
    monkeypatch.setattr(toy2d, "CHALLENGE", replace(toy2d.CHALLENGE, num_samples=64, nfe=(1, 4)))
    monkeypatch.setattr(challenge_file, "SPLITS", {"train": (512, 0), "val": (64, 1)})
    monkeypatch.setattr(compare, "DOCS", tmp_path / "kit_docs")
    files = ["--out", tmp_path / "out"]
    few = ["--methods", "rectified_flow", "--sets", "swiss_roll", "--iterations", "20", "--seeds", "1", "--jobs", "1"]
    threads = torch.get_num_threads()

    def run(*more):
        return call(toy2d, monkeypatch, *few, *files, *more)

    run.monkeypatch = monkeypatch
    yield run
    torch.set_num_threads(threads)


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]


def points_of(tmp_path, method):
    (path,) = (tmp_path / "out" / "points").glob(f"{method}-*")
    with np.load(path) as points:
        return dict(points)


def test_run_is_stored_and_not_repeated(bench, tmp_path, capsys):
    assert bench() == 0
    (row,) = lines(tmp_path)
    assert row["run"] == {"method": "rectified_flow", "sets": ["swiss_roll"], "seeds": 1, "iterations": 20}
    figures = row["figures"]["swiss_roll"]
    assert set(figures) == {"1", "4"} and set(figures["4"][0]) == {"chamfer", "sliced_w2", "mmd"}
    text = (tmp_path / "out" / "toy2d.md").read_text()
    assert "| swiss_roll | rectified_flow | " in text and "*real points*" in text and "Missing" not in text
    assert Image.open(tmp_path / "out" / "images" / "toy2d.png").width > 200
    assert points_of(tmp_path, "rectified_flow")["swiss_roll-4"].shape == (64, 2)

    capsys.readouterr()
    assert bench() == 0
    assert "1 of them there already, 0 to do" in capsys.readouterr().out
    assert lines(tmp_path) == [row]
    with open(tmp_path / "out" / "runs.jsonl", "a") as file:
        file.write('{"run": {"meth')  # a line that was left unfinished is dropped
    marks = [replace(toy2d.CHALLENGE.marks[0], method="rectified_flow", nfe=4, below=below) for below in (1e9, 1e-9)]
    bench.monkeypatch.setattr(toy2d, "CHALLENGE", replace(toy2d.CHALLENGE, marks=tuple(marks)))
    assert bench("--report_only", "--methods", "rectified_flow", "edm") == 0
    text = (tmp_path / "out" / "toy2d.md").read_text()
    assert "**Missing: edm.**" in text and "| swiss_roll | edm | - | - |" in text
    assert text.count("**pass**") == text.count("**fail**") == 1
    assert lines(tmp_path) == [row]


def test_a_run_follows_from_its_seeds(bench, tmp_path, monkeypatch):
    """Each of seeds and sets is a network of its own; with other options it is another run."""
    assert bench("--seeds", "2", "--sets", "swiss_roll", "circle") == 0
    (first,) = lines(tmp_path)
    assert set(first["figures"]) == {"swiss_roll", "circle"}
    for rows in (rows for by_nfe in first["figures"].values() for rows in by_nfe.values()):
        assert len(rows) == 2 and rows[0] != rows[1]
    text = (tmp_path / "out" / "toy2d.md").read_text()
    assert "2 seeds ± their standard deviation" in text and "| circle | rectified_flow | " in text
    (tmp_path / "out" / "runs.jsonl").unlink()
    assert bench("--seeds", "2", "--sets", "swiss_roll", "circle") == 0
    assert lines(tmp_path)[0]["figures"] == first["figures"]
    other = replace(toy2d.CHALLENGE, method_options={"rectified_flow": {"time_scale": 500.0}})
    monkeypatch.setattr(toy2d, "CHALLENGE", other)
    assert bench() == 0
    assert len(lines(tmp_path)) == 2 and lines(tmp_path)[1]["key"] != first["key"]


def test_one_row_is_added_to_the_table_that_stands(bench, tmp_path, capsys):
    """With options of its own, which are kept with it; what is not measured here stands as docs/ has it, which stays."""
    assert bench("--methods", "rectified_flow", "edm", "--docs", compare.DOCS) == 0
    before = (compare.DOCS / "toy2d.md").read_text()
    assert (compare.DOCS / "images" / "toy2d.png").is_file() and not (tmp_path / "out" / "toy2d.md").exists()
    (tmp_path / "out").rename(tmp_path / "elsewhere")

    words = ["--options", "rectified_flow", "prediction=data", "time_scale=20"]
    few = ["--sets", "swiss_roll", "--iterations", "20", "--seeds", "1", "--jobs", "1", "--out", tmp_path / "out"]
    assert call(toy2d, bench.monkeypatch, *few, *words) == 0  # only that one is trained
    (row,) = lines(tmp_path)
    assert row["run"]["method"] == "rectified_flow" and row["given"] == {"prediction": "data", "time_scale": 20.0}
    assert row["options"] == {**toy2d.CHALLENGE.method_options["rectified_flow"], **row["given"]}
    text = (tmp_path / "out" / "toy2d.md").read_text()
    for method in ("rectified_flow", "edm"):
        kept = [line for line in before.splitlines() if f"| {method} |" in line]
        assert len(kept) == 3 and all(line in text for line in kept)
    assert re.search(rf"^\| swiss_roll \| {re.escape(name_of(row))} \| [\d.]+ \|", text, re.MULTILINE), text
    assert f"- `{name_of(row)}`: NFE 1 nearer than rectified_flow's by " in text and "x on swiss_roll" in text
    assert "Measured before, `edm`, `rectified_flow`: `python -m recipes.toy2d --methods" in text and "Missing" not in text
    assert f"{name_of(row)} {json.dumps(row['options'])}" in text and "edm {" in text
    assert (compare.DOCS / "toy2d.md").read_text() == before

    assert call(toy2d, bench.monkeypatch, *few, "--methods", "rectified_flow") == 0  # its row is added to both
    text = (tmp_path / "out" / "toy2d.md").read_text()
    assert f"| {name_of(row)} |" in text and "Measured before, `edm`: " in text

    capsys.readouterr()
    assert call(toy2d, bench.monkeypatch, *few, "--methods", "rectified_flow", "--iterations", "21") == 0
    assert "measured with other numbers" in capsys.readouterr().out
    assert "edm" not in (tmp_path / "out" / "toy2d.md").read_text()


def name_of(row):
    return compare.row_name(row["run"]["method"], row["given"])


def line(*distances):
    """A stored line of one set whose Chamfer distances at NFE 1 and 4 are these."""
    figures = {str(nfe): [{"chamfer": value}] for nfe, value in zip((1, 4), distances, strict=True)}
    return {"figures": {"swiss_roll": figures}}


def test_remarks_compare_with_rectified_flow():
    done = {"rectified_flow": line(600.0, 50.0), "good": line(60.0, 30.0), "bad": line(300.0, 400.0)}
    good, bad = tables.remarks(done, ["rectified_flow", "good", "bad"], ["swiss_roll"], {}).values()
    assert "`good`: NFE 1 nearer than rectified_flow's by 10x on swiss_roll; worse at NFE 4 than at NFE 1 on none" in good
    assert "by 2x on swiss_roll; worse at NFE 4 than at NFE 1 on swiss_roll (300 to 400)" in bad


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
            METHODS.remove(name)
    captured = capsys.readouterr()
    assert "planted" in captured.out and "1 of 2 experiments failed" in captured.err
    assert [row["run"]["method"] for row in lines(tmp_path)] == ["diverges"]
    assert "| swiss_roll | diverges | not finite | not finite |" in (tmp_path / "out" / "toy2d.md").read_text()


def test_student_learns_from_the_stored_teacher(bench, tmp_path, monkeypatch):
    """The teacher is trained first, once, and the student starts from its weights."""
    seen = []

    class Learner(Student, get_method(toy2d.TEACHER)):
        def compute_loss(self, data, noise, step, **kwargs):
            if step == 1:
                pairs = zip(self.network.parameters(), self.teacher.network.parameters(), strict=True)
                seen.append(all(torch.equal(mine, theirs) for mine, theirs in pairs))
            return super().compute_loss(data, noise)

    try:
        register("student")(Learner)
        options = toy2d.CHALLENGE.method_options
        more = {**options, "student": options[toy2d.TEACHER]}
        monkeypatch.setattr(toy2d, "CHALLENGE", replace(toy2d.CHALLENGE, method_options=more))
        assert bench("--methods", "student") == 0
        assert [row["run"]["method"] for row in lines(tmp_path)] == [toy2d.TEACHER, "student"]
        assert bench("--methods", "student", "--iterations", "21") == 0
    finally:
        METHODS.remove("student")
    assert seen == [True, True]
    assert len(lines(tmp_path)) == 4


@pytest.mark.parametrize("method", [name for name in method_names() if name != "custom" and get_method(name).independent_rows])
def test_networks_share_nothing(method, tmp_path):
    """Another batch for one network leaves the gradients of the others as they are.

    A method of which that is not true declares it: independent_rows = False.
    """
    sets = ("moons", "circle", "s_curve")
    if run := toy2d.Experiment(method, sets, 1, 20).teacher:
        save_model(toy2d.build(run, slice(0, 3), tmp_path), run.file(tmp_path, "trained") / "last.ckpt", {})
    seed_everything(0)
    model = toy2d.build(toy2d.Experiment(method, sets, 1, 20), slice(0, 3), tmp_path)
    data, noise = torch.randn(3 * 128, 2), torch.randn(3 * 128, 2)
    other = data.clone(), noise.clone()
    for values in other:
        values[128:256] += 1
    for name, parameters in model.optim_groups().items():
        parameters = list(parameters)
        gradients = []
        for batch in ((data, noise), other):
            seed_everything(1)
            loss = model.compute_loss(*batch, step=3, total_steps=20, group=name)
            gradients.append(torch.autograd.grad(loss, parameters))
        for before, after in zip(*gradients, strict=True):
            changed = [not torch.allclose(before[i], after[i], rtol=1e-4, atol=1e-7) for i in range(3)]
            assert not changed[0] and not changed[2], "networks exchange what they learn"
        assert any(not torch.allclose(before[1], after[1]) for before, after in zip(*gradients, strict=True))


def test_pairs_are_the_teachers(bench, tmp_path, monkeypatch):
    """Noise and point of a pair stay together: the teacher takes the one to the other."""
    monkeypatch.setattr(toy2d, "PAIRS", 32)
    assert bench("--methods", "reflow", "--seeds", "2") == 0
    assert [row["run"]["method"] for row in lines(tmp_path)] == ["rectified_flow", "reflow"]
    run = toy2d.Experiment("reflow", ("swiss_roll",), 2, 20)
    points, noises = toy2d.training_points(run, slice(0, 2), tmp_path / "out")
    assert points.shape == noises.shape == (2, 32, 2)
    teacher = toy2d.trained(run.teacher, slice(0, 2), tmp_path / "out")
    with torch.no_grad():
        x, grid = noises.flatten(0, 1), torch.linspace(0, 1, toy2d.PAIR_STEPS + 1)
        for t, t_next in pairwise(grid):
            x = x + (t_next - t) * teacher.predict(x, t.expand(64))
    assert torch.allclose(x, points.flatten(0, 1), atol=1e-4)


def test_networks_trained_one_after_the_other(bench, tmp_path, monkeypatch):
    """A method without independent rows gets its own part of the stacked teacher for each network, and its own steps."""
    monkeypatch.setitem(toy2d.ITERATIONS, "ld3", 2)
    assert bench("--methods", "ld3", "--sets", "swiss_roll", "circle", "--seeds", "2") == 0
    assert "| ld3 | 2 | " in (tmp_path / "out" / "toy2d.md").read_text()
    figures = lines(tmp_path)[1]["figures"]
    assert len({row["chamfer"] for by_nfe in figures.values() for rows in by_nfe.values() for row in rows}) == 8
    teacher = lines(tmp_path)[0]["figures"]  # at NFE 1 there is nothing to learn: the same network, other noise
    for data in ("swiss_roll", "circle"):
        ours, theirs = ([row["chamfer"] for row in rows[data]["1"]] for rows in (figures, teacher))
        assert sum(ours) == pytest.approx(sum(theirs), rel=0.3)


def test_gradients_are_clipped_network_by_network():
    parameters = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(2, 4, 1))]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
        parameter.grad[1] *= 0.1
    toy2d.clip_members(parameters, 2)
    norms = [sum(p.grad[i].square().sum() for p in parameters).sqrt().item() for i in range(2)]
    assert norms == pytest.approx([1.0, 2 * 0.1 * 7**0.5])
