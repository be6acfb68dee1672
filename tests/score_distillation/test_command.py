"""The command: its files, its flags, that it goes on where it stopped, and what it refuses in one line."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import src.score_distillation.command as command_file
from src.common import progress
from src.common.distilled import file_stem
from src.score_distillation import __main__ as command
from src.score_distillation.command import LOSSES
from src.score_distillation.outputs import image_names
from src.score_distillation.stable_diffusion import StableDiffusion
from tests.helpers import call, fails

FAST = ["--steps", 4, "--log_step", 2, "--device", "cpu"]


def read(file):
    return np.asarray(Image.open(file))


def test_the_courses_flags_and_defaults():
    args = command.parse(["--prompt", "a fox"])
    expected = {
        "negative_prompt": "low quality",
        "guidance_scale": 7.5,
        "steps": 500,
        "lr": 0.01,
        "log_step": 25,
        "lora_lr": 1e-4,
        "lora_weight_decay": 1e-4,
        "lora_loss_weight": 1.0,
        "lora_rank": 4,
        "inversion_n_steps": 10,
        "inversion_guidance_scale": -7.5,
        "inversion_eta": 0.3,
        "sdi_update_interval": 25,
        "model": "stabilityai/stable-diffusion-2-1-base",
    }
    assert {name: getattr(args, name) for name in expected} == expected
    assert str(args.save_dir) == "outputs"
    for loss_type in ("sds", "vsd", "sdi"):
        for precision in ("fp32", "fp16"):
            command.parse(["--prompt", "a fox", "--loss_type", loss_type, "--precision", precision])


@pytest.mark.parametrize("loss_type", LOSSES)
def test_its_files(run, loss_type, tmp_path, monkeypatch, capsys):
    flags = ["--prior", run, "--class", "disc", "--loss_type", loss_type, "--save_dir", tmp_path, *FAST]
    monkeypatch.setattr(progress, "SECONDS", 0)  # between two lines
    assert call(command, monkeypatch, *flags) == 0
    place = tmp_path / loss_type
    assert sorted(path.name for path in place.iterdir()) == ["disc", "disc.png", "run_config.json"]
    names = ["log.jsonl", "run_config.json", "step_00002.png", "step_00004.png"]
    assert sorted(path.name for path in (place / "disc").iterdir()) == names
    assert read(place / "disc.png").shape == (16, 16, 3)
    assert np.array_equal(read(place / "disc.png"), read(place / "disc" / "step_00004.png"))
    assert not np.array_equal(read(place / "disc.png"), read(place / "disc" / "step_00002.png"))
    settings = json.loads((place / "run_config.json").read_text())
    assert settings["prompt"] == "disc" and settings["loss_type"] == loss_type and settings["steps"] == 4
    assert ("lora_rank" in settings) == (loss_type == "vsd") and ("inversion_eta" in settings) == (loss_type == "sdi")
    rows = [json.loads(line) for line in (place / "disc" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4] and all(row["loss"] > 0 for row in rows)
    printed = capsys.readouterr()
    assert f"distils {run / 'last.ckpt'}: DDPM on cpu, " in printed.out
    assert f"disc: {loss_type}, guidance scale 7.5\n" in printed.out
    assert f"image: {place / 'disc.png'}" in printed.out
    assert "4 of 4 steps" in printed.err and "loss " in printed.err


def test_it_goes_on_where_it_stopped(run, tmp_path, monkeypatch, capsys):
    """Ended in the middle, the same command makes the image of an uninterrupted run; once it is made, it stays."""
    flags = ["--prior", run, "--class", "disc", "--loss_type", "vsd", "--steps", 6, "--log_step", 2, "--device", "cpu"]
    assert call(command, monkeypatch, *flags, "--save_dir", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        right = command_file.append_json_line

        def append(row, file):
            right(row, file)
            if row["step"] == 4:
                raise KeyboardInterrupt

        patch.setattr(command_file, "append_json_line", append)
        assert call(command, patch, *flags, "--save_dir", tmp_path / "parts") == 130
    assert not (tmp_path / "parts" / "vsd" / "disc.png").exists()
    capsys.readouterr()
    assert call(command, monkeypatch, *flags, "--save_dir", tmp_path / "parts") == 0
    assert "continued after step 4" in capsys.readouterr().out
    assert np.array_equal(read(tmp_path / "parts/vsd/disc.png"), read(tmp_path / "whole/vsd/disc.png"))
    assert call(command, monkeypatch, *flags, "--save_dir", tmp_path / "parts") == 0
    assert "there already, of these settings" in capsys.readouterr().out
    assert call(command, monkeypatch, *flags, "--lora_rank", 2, "--save_dir", tmp_path / "parts") == 0
    assert not np.array_equal(read(tmp_path / "parts/vsd/disc.png"), read(tmp_path / "whole/vsd/disc.png"))


def test_a_prior_that_was_trained_on_is_another(run, tmp_path, monkeypatch, capsys):
    """The same path with other weights: the image is made anew."""
    own = shutil.copytree(run, tmp_path / "own")
    flags = ["--prior", own, "--class", "disc", "--save_dir", tmp_path, *FAST]
    assert call(command, monkeypatch, *flags) == 0
    saved = torch.load(own / "last.ckpt", weights_only=True)
    torch.save({**saved, "state_dict": {name: value + 0.01 for name, value in saved["state_dict"].items()}}, own / "last.ckpt")
    assert call(command, monkeypatch, *flags) == 0
    assert "there already" not in capsys.readouterr().out


def test_names_of_files():
    assert image_names("a fox in snow", 1) == ["a_fox_in_snow.png"]
    assert image_names("a fox", 2) == ["a_fox_0.png", "a_fox_1.png"]
    assert file_stem("../a/b: c?") == "_a_b__c_"
    assert len(file_stem("ü" * 300).encode()) <= 200


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--prompt", "  "], "--prompt is empty: say what the image is to show"),
        ([], "--prompt is empty"),
        (["--class", "disc"], "--class needs --prior"),
        (["--prior", "RUN"], "give --class, and no --prompt"),
        (["--prior", "RUN", "--class", "disc", "--prompt", "a disc"], "give --class, and no --prompt"),
        (["--prior", "RUN", "--class", "disk"], "expected one of disc, square; did you mean disc?"),
        (["--prior", "RUN", "--class", "disc", "--negative_class", "x"], "--negative_class x: no such class"),
        (["--prior", "nowhere", "--class", "disc"], "no checkpoint at nowhere"),
        (["--prior", "RUN", "--class", "disc", "--lr", "0"], "expected lr above 0, got 0"),
        (["--prior", "RUN", "--class", "disc", "--steps", "0"], "argument --steps: expected a whole number of at least 1"),
        (
            ["--prior", "RUN", "--class", "disc", "--loss_type", "sdi", "--inversion_eta", "2"],
            "expected inversion_eta from 0 to 1, got 2",
        ),
        (["--prior", "RUN", "--class", "disc", "--loss_type", "sdd"], "invalid choice: 'sdd'"),
        (["--prior", "RUN", "--class", "disc", "--precision", "fp16"], "--precision fp16: expected a GPU"),
    ],
)
def test_what_is_refused(run, flags, words, monkeypatch, capsys, tmp_path):
    flags = [str(run) if word == "RUN" else word for word in flags]
    assert words in fails(command, monkeypatch, capsys, *flags, "--device", "cpu", "--save_dir", tmp_path / "made")
    assert not list(tmp_path.rglob("*.png"))


def test_absent_packages_are_one_line(monkeypatch, capsys):
    for package in ("diffusers", "peft"):
        monkeypatch.setitem(sys.modules, package, None)
    line = fails(command, monkeypatch, capsys, "--prompt", "a fox", "--device", "cpu")
    assert "a text prompt needs the packages diffusers and transformers: pip install -r requirements-score_distillation" in line
    with pytest.raises(command_file.UserError, match="--loss_type vsd needs the package peft: pip install -r"):
        StableDiffusion.adapted(object.__new__(StableDiffusion), 4)
