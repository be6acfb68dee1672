"""train.py, sampling.py as a user meets them."""

import json
import os
import subprocess

import pytest
import torch
from PIL import Image

import sampling
import train
from src.challenges import get_challenge
from src.common.checkpoints import save_model
from src.common.files import PROJECT_ROOT
from tests.helpers import BOTH_PRECISIONS, TINY, TINY_FLAGS, assert_pngs_agree, call, fails, read_pngs, tiny_model
from tests.processes import forked_python


@pytest.fixture
def checkpoint(tmp_path):
    save_model(tiny_model(), tmp_path / "model" / "best_model.pt", {"method": "custom", **TINY})
    return tmp_path / "model" / "best_model.pt"


def test_train_then_sample(toon, tmp_path, monkeypatch, capsys):
    flags = [*TINY_FLAGS, "--challenge", "toon", "--batch_size", 4, "--num_iterations", 2, "--save_dir", tmp_path / "results"]
    assert call(train, monkeypatch, *flags, "--time_distribution", "logit_normal", "--num_train_timesteps", 500) == 0
    (run,) = (tmp_path / "results").iterdir()
    config = json.loads((run / "model_config.json").read_text())
    assert config["time_distribution"] == "logit_normal" and config["num_train_timesteps"] == 500
    assert config["ch_mult"] == [1, 2] and config["use_additional_condition"] is False and "batch_size" not in config

    arguments = ["--ckpt_path", run / "last.ckpt", "--save_dir", tmp_path / "samples", "--num_samples", 5, "--device", "cuda"]
    assert call(sampling, monkeypatch, *arguments) == 0
    if not torch.cuda.is_available():
        assert "running on the CPU" in capsys.readouterr().out
    for nfe in (1, 2, 4):
        files = sorted((tmp_path / "samples" / f"nfe={nfe}").iterdir())
        assert [file.name for file in files] == [f"{index:04d}.png" for index in range(5)]
        assert all(Image.open(file).size == (64, 64) and Image.open(file).mode == "RGB" for file in files)
    one = ["--save_dir", tmp_path / "folder", "--nfe_list", 1, "--num_samples", 5, "--device", "cuda"]
    assert call(sampling, monkeypatch, "--ckpt_path", run, *one) == 0
    assert (read_pngs(tmp_path / "folder" / "nfe=1") == read_pngs(tmp_path / "samples" / "nfe=1")).all()


@BOTH_PRECISIONS
def test_images_do_not_depend_on_the_batch_size(checkpoint, tmp_path, monkeypatch, precision):
    for size in (1, 4, 7):
        flags = ["--ckpt_path", checkpoint, "--save_dir", tmp_path / str(size), "--num_samples", 7, "--batch_size", size]
        assert call(sampling, monkeypatch, *flags, "--precision", precision, "--device", "cpu") == 0
    network = tiny_model().network
    for nfe in (1, 2, 4):
        one, four, seven = (tmp_path / size / f"nfe={nfe}" for size in "147")
        assert_pngs_agree(one, seven, precision, network)
        assert_pngs_agree(four, seven, precision, network)
        first, second = read_pngs(one)[:2]
        assert abs(first - second).mean() > 5


def test_seed_and_precision(checkpoint, tmp_path, monkeypatch):
    base = ["--ckpt_path", checkpoint, "--num_samples", 2, "--nfe_list", 2, "--device", "cpu"]
    runs = {"a": ("fp32", 42), "b": ("fp32", 42), "seed": ("fp32", 1), "bf16": ("bf16", 42), "bf16 again": ("bf16", 42)}
    for name, (precision, seed) in runs.items():
        flags = ["--precision", precision, "--seed", seed]
        assert call(sampling, monkeypatch, *base, "--save_dir", tmp_path / name, *flags) == 0
    a, b, seed, bf16, again = (read_pngs(tmp_path / name / "nfe=2") for name in runs)
    assert (a == b).all() and (bf16 == again).all() and abs(a - seed).mean() > 5
    assert (a != bf16).any(), "bfloat16 was not used"
    assert_pngs_agree(tmp_path / "bf16" / "nfe=2", tmp_path / "a" / "nfe=2", "bf16", tiny_model().network)


def test_sampling_again_replaces_the_folder(checkpoint, tmp_path, monkeypatch):
    base = ["--ckpt_path", checkpoint, "--save_dir", tmp_path / "s", "--nfe_list", 1, "--device", "cpu"]
    for count in (3, 2):
        assert call(sampling, monkeypatch, *base, "--num_samples", count) == 0
    assert len(list((tmp_path / "s" / "nfe=1").iterdir())) == 2


def test_a_model_without_seeds_is_sampled_too(checkpoint, tmp_path, monkeypatch):
    """A student's sample() that knows the course's arguments alone draws from the seeded global generator."""

    class Plain(torch.nn.Module):
        device = torch.device("cpu")

        def sample(self, shape, num_inference_timesteps=20, return_traj=False, verbose=False, **kwargs):
            return torch.randn(shape)

    monkeypatch.setattr(sampling, "load_model", lambda *args: Plain())
    flags = ["--ckpt_path", checkpoint, "--num_samples", 2, "--nfe_list", 1, "--device", "cpu"]
    for name in "ab":
        call(sampling, monkeypatch, "--save_dir", tmp_path / name, *flags)
    assert (read_pngs(tmp_path / "a" / "nfe=1") == read_pngs(tmp_path / "b" / "nfe=1")).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nfe_list", "0"], "argument --nfe_list: expected a whole number of at least 1, got '0'"),
        (["--nfe_list", "1", "two"], "got 'two'"),
        (["--num_samples", "-3"], "at least 1, got '-3'"),
        (["--steps", "4"], "unrecognized arguments: --steps 4"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--ckpt_path", "nowhere.pt"], "no checkpoint at nowhere.pt"),
    ],
)
def test_sampling_refuses(checkpoint, tmp_path, monkeypatch, capsys, flags, message):
    base = [] if "--ckpt_path" in flags else ["--ckpt_path", checkpoint]
    assert message in fails(sampling, monkeypatch, capsys, *base, "--save_dir", tmp_path / "s", *flags)
    assert not (tmp_path / "s").exists()


def test_sampling_refuses_a_model_that_gives_no_numbers(checkpoint, tmp_path, monkeypatch, capsys):
    state = torch.load(checkpoint, weights_only=True)
    state["state_dict"]["network.tail.2.bias"].fill_(float("nan"))
    torch.save(state, checkpoint)
    flags = ["--ckpt_path", checkpoint, "--save_dir", tmp_path / "s", "--device", "cpu", "--num_samples", 2]
    assert "not finite" in fails(sampling, monkeypatch, capsys, *flags)
    assert not list((tmp_path / "s").rglob("*.png"))


def test_exit_code_of_the_process():
    result = subprocess.run(
        [forked_python(), "sampling.py", "--nfe_list", "0"], cwd=PROJECT_ROOT, capture_output=True, text=True, env=os.environ
    )
    assert result.returncode == 2 and result.stderr.startswith("error: argument --nfe_list")


@pytest.mark.slow
def test_the_full_network_end_to_end(toon, tmp_path, monkeypatch):
    monkeypatch.setattr(type(get_challenge("toon")), "preview_samples", 1)
    flags = ["--challenge", "toon", "--num_iterations", 2, "--batch_size", 2, "--device", "cpu", "--save_dir", tmp_path]
    assert call(train, monkeypatch, *flags, "--run_name", "full") == 0
    run = tmp_path / "full"
    assert 234e6 < (run / "last.ckpt").stat().st_size < 236e6
    assert call(sampling, monkeypatch, "--ckpt_path", run / "last.ckpt", "--save_dir", run, "--num_samples", 2) == 0
    assert len(read_pngs(run / "nfe=4")) == 2
