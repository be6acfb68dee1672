"""A run's folder, also one that an earlier release left: tests/data/old_run, made before challenges had a flag of their own."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import measure_fid
import sampling
import train
from src.common.locks import owned
from src.evaluation.trajectory import __main__ as trajectory
from src.runs import __main__ as runs
from src.runs.folder import Run, checkpoint_of, nfe_folders, nfe_name, nfe_of
from src.runs.scores import (
    Score,
    add_scores,
    add_to_run,
    development_scores,
    last_scores,
    latest,
    measured_scores,
    named_scores,
    samples_of,
    write_scores,
)
from src.training.config import TrainingConfig
from src.training.starting import Settings
from src.writeup import __main__ as report
from src.writeup.run import earlier_runs
from tests.helpers import add_measured, call, fails

POINTS = ["--challenge", "toy2d", "--hidden", 8, "--num_iterations", 2, "--batch_size", 8, "--log_interval", 1]
OLD = Path(__file__).parent / "data" / "old_run"


@pytest.fixture
def old_run(tmp_path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "run"))


def test_names():
    assert nfe_name(4) == "nfe=4" and nfe_of("a/nfe=4") == nfe_of("fid/nfe=4.json") == 4
    assert nfe_of("nfe=") is None and nfe_of("samples") is None and nfe_of("nfe=four") is None


def test_folders_of_samples(tmp_path):
    for name in ("nfe=10", "nfe=2", "nfe=x", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "nfe=4").touch()
    assert list(nfe_folders(tmp_path)) == [2, 10] and nfe_folders(tmp_path / "absent") == {}


def test_a_run_and_its_checkpoint(old_run):
    assert Run.of(old_run / "last.ckpt") == Run.of(old_run) == Run(old_run)
    assert checkpoint_of(old_run) == checkpoint_of(old_run / "last.ckpt") == old_run / "last.ckpt"
    (old_run / "best_model.pt").touch()
    assert checkpoint_of(old_run) == old_run / "last.ckpt"
    (old_run / "last.ckpt").unlink()
    assert checkpoint_of(old_run) == old_run / "best_model.pt"
    run = Run(old_run)
    assert run.exists and run.can_resume and run.sample_shape == (3, 64, 64) and run.seconds() > 0
    assert not Run(old_run.parent).exists and Run(old_run.parent).sample_shape is None


def test_an_old_run_is_read_under_the_names_of_today(old_run):
    assert "data" in json.loads((old_run / "training_config.json").read_text())
    assert Run(old_run).challenge == "toon" and "data" not in Run(old_run).training


@pytest.mark.slow
def test_an_old_run_is_resumed(old_run, toon, monkeypatch, capsys):
    """To the weights that the release which began it came to."""
    assert call(train, monkeypatch, "--resume", old_run, "--device", "cpu", "--num_iterations", 6) == 0
    assert "(continued)" in capsys.readouterr().out
    assert [json.loads(line)["step"] for line in (old_run / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    ours, theirs = (
        torch.load(old_run / name, weights_only=True)["state_dict"] for name in ("last.ckpt", "after_resuming.ckpt")
    )
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=0)
    assert json.loads((old_run / "training_config.json").read_text())["challenge"] == "toon"


def test_an_old_run_cannot_be_resumed_as_another_challenge(old_run):
    run, flags = Run(old_run), {item.name for item in fields(TrainingConfig)}
    config = TrainingConfig(**{name: value for name, value in run.training.items() if name in flags})
    for challenge, found in (("toon", []), ("simpsons32", ["--challenge toon there, simpsons32 here"])):
        settings = Settings("auto", config, run.model, {"challenge": challenge, "trained_on": None})
        assert settings.differences(run) == found


@pytest.mark.parametrize(("challenge", "shape"), [("toy2d", "(2,)"), ("simpsons32", "(3, 32, 32)")])
def test_a_run_is_not_sampled_as_a_challenge_of_another_shape(old_run, tmp_path, monkeypatch, capsys, challenge, shape):
    flags = ["--ckpt_path", old_run / "last.ckpt", "--save_dir", tmp_path / "s", "--challenge", challenge, "--device", "cpu"]
    assert call(sampling, monkeypatch, *flags) == 2
    told = capsys.readouterr().err
    assert "trained on samples of shape (3, 64, 64)" in told and f"those of --challenge {challenge} are {shape}" in told
    assert not (tmp_path / "s").exists()


def test_an_old_checkpoint_is_sampled(old_run, tmp_path, monkeypatch):
    flags = ["--ckpt_path", old_run / "after_resuming.ckpt", "--save_dir", tmp_path / "s", "--num_samples", 1]
    assert call(sampling, monkeypatch, *flags, "--device", "cpu", "--precision", "fp32") == 0
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["nfe=1", "nfe=2", "nfe=4", "sampling.json"]
    ours, theirs = (
        np.asarray(Image.open(path)).astype(int)
        for path in (tmp_path / "s" / "nfe=4" / "0000.png", old_run / "sampled_nfe4.png")
    )
    assert abs(ours - theirs).max() <= 1


def test_a_list_of_runs(old_run, tmp_path, monkeypatch, capsys):
    """At any depth; FIDs that were measured come before those of the training's log, the last of each NFE counts."""
    assert call(runs, monkeypatch, tmp_path) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "challenge", "method", "steps", "images", "trained", "scores", "by", "NFE"]
    assert row.split()[:3] == ["run", "toon", "rectified_flow"] and row.endswith("-")
    shutil.copytree(old_run, tmp_path / "deeper" / "my run")
    other = Run(tmp_path / "deeper" / "my run")
    for nfe, score in ((4, 50.0), (1, 300.125), (4, 40.0)):
        add_measured(other, {"nfe": nfe, "fid_clean": score, "fid_pytorch": score + 1, "num_generated": 12})
    (old_run / "log.jsonl").open("a").write(json.dumps({"step": 4, "ema_half_life": 0.05, "fid_nfe2": 7.0}) + "\n")
    assert call(runs, monkeypatch, tmp_path) == 0
    _, mine, first = capsys.readouterr().out.splitlines()
    assert mine.startswith("deeper/my run") and mine.endswith("  fid_clean 1: 300.12, 4: 40.00")
    assert first.endswith("  fid, development split 2: 7.00")
    (tmp_path / "empty").mkdir()
    assert "no runs there" in fails(runs, monkeypatch, capsys, tmp_path / "empty")


def test_scores_of_other_samples_come_after(old_run):
    """Of some classes alone, or with options of the sampler: they count where nothing else was measured; guidance is apart."""
    run = Run(old_run)
    add_measured(run, {"nfe": 1, "fid_clean": 1.0, "options": {}, "classes": ["all"]})
    for nfe, told in (
        (1, {"options": {"eta": 1.0}}),
        (1, {"classes": ["3"]}),
        (2, {"classes": ["3"]}),
        (1, {"guidance_scale": 2.0}),
    ):
        add_measured(run, {"nfe": nfe, "fid_clean": 9.0, **told})
    assert last_scores(run) == {1: 1.0, 2: 9.0}
    assert named_scores(run) == {"fid_clean": {1: 1.0, 2: 9.0}, "fid_clean, guidance 2": {1: 9.0}}


# ------------------------------------------------------------------------------------- runs and samples that are moved


@pytest.fixture(scope="module")
def run_of_points(tmp_path_factory) -> Path:
    """The folder of a run of points in the plane, of two steps."""
    place = tmp_path_factory.mktemp("points")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert call(train, patch, *POINTS, "--run_name", "a", "--device", "cpu") == 0
    return place / "results" / "a"


@pytest.fixture
def points(run_of_points, tmp_path, monkeypatch, capsys):
    """Commands given in a folder with results/a alone: what they print."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_of_points, "results/a")

    def do(module, *flags) -> str:
        device = ["--device", "cpu"] if module is not runs else []
        assert call(module, monkeypatch, *flags, *device) == 0
        return capsys.readouterr().out

    return do


def another_run(at: Path | str) -> None:
    """Put another run into this folder, alike but for its identity."""
    shutil.copytree(next(Path().glob("*/*/last.ckpt")).parent, at)
    change(at, run_id="another")


def change(run: Path | str, **settings) -> None:
    """Change training_config.json; None takes a setting away."""
    file = Path(run) / "training_config.json"
    told = {**json.loads(file.read_text()), **settings}
    file.write_text(json.dumps({name: value for name, value in told.items() if value is not None}))


def train_on(run: Path | str) -> None:
    """Give a run other weights, as training does."""
    saved = torch.load(Path(run) / "last.ckpt", weights_only=True)
    saved["state_dict"]["network.tail.weight"] += 1
    torch.save(saved, Path(run) / "last.ckpt")


def add(folder: str) -> str:
    """What measure_fid.py says when it has measured a folder of samples of points."""
    return add_to_run(Path(folder), "toy2d", {"chamfer": 1.5}, 2048, "2048")[1]


def test_a_run_that_was_moved_gets_its_score(points, tmp_path):
    """And neither another run that is now in its place, nor a copy that was trained on."""
    points(sampling, "--ckpt_path", "results/a/last.ckpt", "--nfe_list", 1)
    (tmp_path / "kept").mkdir()
    shutil.move("results/a", "kept/b")
    another_run("results/a")
    assert add("samples/nfe=1") == "added to kept/b/metrics.jsonl"

    shutil.rmtree("results/a")
    shutil.copytree("kept/b", "results/a")
    train_on("results/a")
    assert add("samples/nfe=1") == "added to kept/b/metrics.jsonl"
    assert [len(measured_scores(Run(tmp_path / place))) for place in ("kept/b", "results/a")] == [2, 1]
    for file in ("kept/b/metrics.jsonl", "kept/b/training_config.json", "samples/sampling.json"):
        assert str(tmp_path) not in Path(file).read_text()
    assert list(samples_of(Run(Path("kept/b")))) == [1] and not samples_of(Run(Path("results/a")))

    shutil.rmtree("kept")
    change("results/a", run_id="another")
    assert add("samples/nfe=1") == "added to no run: results/a is not the run of these samples, and theirs is not found"
    shutil.rmtree("results")
    assert add("samples/nfe=1").startswith("added to no run: the run of these samples, a, is not found; put it below ")


def test_samples_that_move_with_their_run(points, tmp_path):
    points(sampling, "--ckpt_path", "results/a", "--save_dir", "results/a/samples", "--nfe_list", 1)
    shutil.copytree("results/a", tmp_path / "elsewhere" / "c")
    assert add("elsewhere/c/samples/nfe=1") == "added to elsewhere/c/metrics.jsonl"
    assert not measured_scores(Run(Path("results/a")))


def test_runs_without_an_identity(points, tmp_path):
    """Of a run of an earlier release the weights tell which it is; samples of one are of the run that is in the place."""
    change("results/a", run_id=None)
    points(sampling, "--ckpt_path", "results/a", "--nfe_list", 1)
    shutil.move("results/a", "results/b")
    another_run("results/a")
    train_on("results/a")
    assert add("samples/nfe=1") == "added to results/b/metrics.jsonl"
    was = {"checkpoint": str(tmp_path / "results/a/last.ckpt"), "nfe": 1, "num_samples": 2048, "challenge": "toy2d"}
    Path("samples/sampling.json").write_text(json.dumps({"nfe=1": was}))
    assert add("samples/nfe=1") == "added to results/a/metrics.jsonl"


def test_why_a_score_is_added_nowhere(points):
    Path("bare").mkdir()
    shutil.copy("results/a/last.ckpt", "bare/model.pt")
    shutil.copy("results/a/model_config.json", "bare")
    points(sampling, "--ckpt_path", "bare/model.pt", "--nfe_list", 1)
    assert add("samples/nfe=1") == "added to no run: bare/model.pt lies in none"
    fewer = Path("samples/nfe=1"), "toy2d", {"chamfer": 1.0}, 2047, "2048"
    told = add_to_run(*fewer)[1]
    assert told == "added to no run: sampling.json is of 2048 samples here, and these are other ones"
    points(sampling, "--ckpt_path", "results/a", "--nfe_list", 1)
    told = add_to_run(Path("samples/nfe=1"), "simpsons", {"fid_clean": 1.0}, 2048, "2048")[1]
    assert told == "added to no run: results/a is of challenge toy2d, but the samples were measured as simpsons"
    Path("samples/sampling.json").unlink()
    told = add_to_run(*fewer)[1]
    assert told == "added to no run: beside samples/nfe=1 no sampling.json says what made it"
    assert not measured_scores(Run(Path("results/a")))


def test_what_is_left_in_a_folder_of_samples_is_told(points):
    assert "left as" not in points(sampling, "--ckpt_path", "results/a", "--nfe_list", 1)
    assert "samples: left as they were: nfe=1 (--nfe_list)\n" in points(sampling, "--ckpt_path", "results/a", "--nfe_list", 2)


def test_the_list_names_the_metric(points):
    """measure_fid.py is not told the challenge: sampling.json says it."""
    points(sampling, "--ckpt_path", "results/a", "--nfe_list", 1)
    assert points(measure_fid, "--generated_dir", "samples/nfe=1").endswith("added to results/a/metrics.jsonl\n")
    score = last_scores(Run(Path("results/a")))[1]
    run = Run(Path("results/a"))
    assert {each.average for each in measured_scores(run)} == {run.training["ema_half_lives"][0]}
    assert points(runs, "results").splitlines()[1].endswith(f"  chamfer 1: {score:.2f}")


def test_a_teacher_that_was_moved_too(points, tmp_path):
    """The student's time counts its teacher's, and it is continued with it, though its path is another one now."""
    change("results/a", run_id="the teacher")
    flags = ["--method", "progressive", "--teacher", "results/a"]
    points(train, *POINTS, "--run_name", "student", *flags)
    shutil.move("results", "moved")
    student = Run(tmp_path / "moved" / "student")
    ((role, folder, seconds),) = earlier_runs(student)
    assert role == "teacher" and folder.resolve() == tmp_path / "moved" / "a" and seconds > 0
    points(train, "--resume", "moved/student", "--num_iterations", 4)
    assert Run(student.folder).training["num_iterations"] == 4 and Run(student.folder).run_id == student.run_id


def test_runs_that_cannot_be_listed(old_run, tmp_path, monkeypatch, capsys):
    """They have a row that says so, and the others are listed as ever; what needs their model says what to do."""
    waiting, odd = tmp_path / "waiting", tmp_path / "odd"
    for folder in (waiting, odd):
        folder.mkdir()
    shutil.copy(old_run / "training_config.json", waiting)
    (odd / "training_config.json").write_text("[1]")
    assert call(runs, monkeypatch, tmp_path) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["odd", "run", "waiting"]
    assert "cannot be read: " in rows[0] and "expected a JSON object" in rows[0]
    assert rows[2].split()[1:3] == ["toon", "-"] and rows[2].endswith("not saved yet")
    for module, flags in ((report, [waiting]), (trajectory, [waiting]), (sampling, ["--ckpt_path", waiting])):
        told = fails(module, monkeypatch, capsys, *flags)
        assert f"{waiting} has not saved yet: it ended before that; give the train.py command again" in told
    with owned(waiting):
        told = fails(report, monkeypatch, capsys, waiting)
    assert "not saved yet: a run saves every " in told and "wait, or end it" in told


# ------------------------------------------------------------------------------------------------ one shape of all scores


def test_what_is_written_is_what_is_read(tmp_path):
    run = Run(tmp_path)
    details = {"nfe": 2, "guidance": 1.5, "step": 8, "images_seen": 64, "average": 0.05, "num_images": 12, "reference": "6"}
    add_scores(
        run, {"fid_clean": 3.0, "fid_pytorch": 4.0}, tmp_path / "samples" / "nfe=2", **details, seed=7, options={"eta": 1.0}
    )
    written = measured_scores(run)
    assert [(score.metric, score.value) for score in written] == [("fid_clean", 3.0), ("fid_pytorch", 4.0)]
    first = written[0]
    assert {name: getattr(first, name) for name in details} == details and first.date and first.command
    assert (
        first.sampling == {"seed": 7, "options": {"eta": 1.0}, "samples": "samples/nfe=2"}
        and first.how == "guidance scale 1.5, eta=1.0"
    )
    copy = Run(tmp_path / "copy")
    copy.folder.mkdir()
    write_scores(copy, written)
    assert measured_scores(copy) == written
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert list(row)[:11] == [item.name for item in fields(Score)][:-1]


def test_lines_of_earlier_releases_are_read(tmp_path):
    """Several metrics a line, under other names; the development scores of a log."""
    old = {
        "nfe": 4,
        "fid_clean": 9.0,
        "fid_pytorch": 8.0,
        "num_generated": 5,
        "reference": "6",
        "guidance_scale": 2.0,
        "seed": 1,
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(old) + '\n{"metric": "kid", "value": "broken"}\n')
    assert measured_scores(Run(tmp_path)) == [
        Score(metric, value, nfe=4, guidance=2.0, num_images=5, reference="6", sampling={"seed": 1})
        for metric, value in (("fid_clean", 9.0), ("fid_pytorch", 8.0))
    ]
    (tmp_path / "log.jsonl").write_text('{"step": 3, "images_seen": 6, "ema_half_life": 0.05, "fid_nfe2": 7.0, "loss": 1.0}\n')
    assert development_scores(Run(tmp_path)) == [
        Score("fid", 7.0, nfe=2, step=3, images_seen=6, average=0.05, reference="development split")
    ]


def test_scores_of_another_measurement_are_not_mixed_in(tmp_path):
    """Of 12 images two metrics, later of 500 one: the other of 12 no longer stands beside it."""
    run = Run(tmp_path)
    add_scores(run, {"fid_clean": 9.0, "fid_pytorch": 8.0}, nfe=1, num_images=12, reference="6")
    assert list(latest(run)[1, 0.0]) == ["fid_clean", "fid_pytorch"]
    add_scores(run, {"fid_clean": 5.0}, nfe=1, num_images=500, reference="6")
    assert {metric: score.value for metric, score in latest(run)[1, 0.0].items()} == {"fid_clean": 5.0}
    add_scores(run, {"kid": 0.5}, nfe=1, num_images=500, reference="6")
    assert list(latest(run)[1, 0.0]) == ["fid_clean", "kid"] and last_scores(run) == {1: 5.0}
