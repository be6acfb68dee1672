"""A run's folder, also one that an earlier release left: tests/data/old_run, made before challenges had a flag of their own."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sampling
import train
from src import runs
from src.runs import Run, checkpoint_of, nfe_folders, nfe_name, nfe_of
from src.training.config import TrainingConfig
from src.training.continuing import forbidden_changes
from tests.helpers import call, fails

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
        assert forbidden_changes(run, "auto", config, run.model, {"challenge": challenge, "trained_on": None}) == found


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
        other.add_metrics({"nfe": nfe, "fid_clean": score, "fid_pytorch": score + 1, "num_generated": 12})
    (old_run / "log.jsonl").open("a").write(json.dumps({"step": 4, "ema_half_life": 0.05, "fid_nfe2": 7.0}) + "\n")
    assert call(runs, monkeypatch, tmp_path) == 0
    _, mine, first = capsys.readouterr().out.splitlines()
    assert mine.startswith("deeper/my run") and mine.endswith("1: 300.12, 4: 40.00")
    assert first.endswith("2: 7.00")
    (tmp_path / "empty").mkdir()
    assert "no runs there" in fails(runs, monkeypatch, capsys, tmp_path / "empty")
