"""Your own images: trained, sampled and measured at their own resolution, wherever the checkpoint has been moved to."""

import csv
import json
import shutil
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

import measure_fid
import sampling
import train
from custom_model import create_custom_model
from recipes import step_seconds
from src.challenges import get_challenge
from src.common.cli import UserError
from src.datasets.pairs import __main__ as pairs
from src.evaluation.statistics import Statistics, write_statistics
from src.evaluation.trajectory import __main__ as trajectory
from src.runs.folder import Run
from src.submission import __main__ as submission
from tests.helpers import TINY, TINY_FLAGS, call, fails, random_images, read_pngs

NAMES = ("강아지", "tabby cat")
COUNTS = {"train": 9, "val": 4}  # images of each class
STEPS = ["--num_iterations", 1, "--batch_size", 4]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))


def write_data(root, size=24, splits=("train", "val")):
    """Images in class folders; without splits those of "train" at the top."""
    for seed, (split, count) in enumerate(COUNTS.items()):
        for name in NAMES if split in splits or (not splits and split == "train") else ():
            folder = root / (split if splits else "") / name
            folder.mkdir(parents=True)
            for i, image in enumerate(random_images(count, seed, (3, size, size))):
                Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """The folder with a run of one step on 24x24 images with their classes."""
    folder = tmp_path_factory.mktemp("labelled")
    write_data(folder / "data")
    flags = ["--data_root", "data", "--run_name", "r", "--class_conditional", *STEPS, *TINY_FLAGS]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CHALLENGE_CACHE", str(folder / "cache"))
        assert call(train, patch, "--challenge", "labelled", *flags) == 0
    return folder


@pytest.fixture
def run(trained_once, tmp_path):
    """The run and its data, to be spoiled."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    return Run(tmp_path / "results" / "r")


@pytest.fixture
def moved(run, tmp_path):
    """Its checkpoint and model_config.json alone, elsewhere."""
    (tmp_path / "moved").mkdir()
    for name in ("last.ckpt", "model_config.json"):
        shutil.copy(run.folder / name, tmp_path / "moved" / name)
    return tmp_path / "moved" / "last.ckpt"


def sample(monkeypatch, checkpoint, *flags):
    flags = ["--ckpt_path", checkpoint, "--num_samples", 3, "--nfe_list", 2, "--device", "cpu", *flags]
    return call(sampling, monkeypatch, *flags)


# ----------------------------------------------------------------------------------------------------------- the shape


def test_a_run_knows_its_shape_and_classes(run, tmp_path, monkeypatch):
    config = json.loads((run.folder / "model_config.json").read_text())
    assert (config["challenge"], config["sample_shape"], config["classes"]) == ("labelled", [3, 24, 24], list(NAMES[::-1]))
    assert run.sample_shape == (3, 24, 24)
    with Image.open(run.previews()[1]) as sheet:
        assert sheet.height == 3 * 2 * 24  # NFE 1, 2, 4, enlarged twice
    assert sample(monkeypatch, run.folder / "last.ckpt") == 0
    files = sorted((tmp_path / "samples" / "nfe=2").iterdir())
    assert [file.name for file in files] == ["000000.png", "000001.png", "000002.png"]
    assert Image.open(files[0]).size == (24, 24)
    rows = list(csv.reader((tmp_path / "samples" / "labels.csv").read_text("utf-8").splitlines()))
    assert rows[1:] == [["000000.png", "1", "tabby cat"], ["000001.png", "2", "강아지"], ["000002.png", "1", "tabby cat"]]


def test_a_moved_checkpoint_is_sampled_alike(run, moved, tmp_path, monkeypatch, capsys):
    (tmp_path / "elsewhere.json").write_bytes((run.folder / "model_config.json").read_bytes())
    (tmp_path / "bare").mkdir()
    bare = shutil.copy(moved, tmp_path / "bare" / "best.pt")
    ways = {
        "run": [run.folder / "last.ckpt"],
        "moved": [moved],
        "named": [moved, "--challenge", "labelled"],
        "config": [bare, "--config_path", "elsewhere.json"],
    }
    for name, words in ways.items():
        assert sample(monkeypatch, *words, "--save_dir", name, "--classes", "강아지") == 0
    made = {name: read_pngs(tmp_path / name / "nfe=2") for name in ways}
    assert made["run"].shape == (3, 24, 24, 3) and all(np.array_equal(images, made["run"]) for images in made.values())
    line = fails(sampling, monkeypatch, capsys, "--challenge", "simpsons32", "--ckpt_path", moved)
    assert "was trained on samples of shape (3, 24, 24); those of --challenge simpsons32 are (3, 32, 32)" in line
    line = fails(submission, monkeypatch, capsys, "pack", moved.parent, "--out", "x.zip", "--challenge", "labelled")
    assert "challenge labelled is for practice" in line


def test_a_shape_that_nothing_says(moved, tmp_path, monkeypatch, capsys):
    config = json.loads((moved.parent / "model_config.json").read_text())
    flags = ["--ckpt_path", moved, "--device", "cpu"]
    (moved.parent / "model_config.json").write_text(json.dumps({**config, "sample_shape": [3, "24", 24]}))
    assert "expected sample_shape as a list of positive whole numbers" in fails(sampling, monkeypatch, capsys, *flags)
    del config["sample_shape"]
    (moved.parent / "model_config.json").write_text(json.dumps(config))
    assert sample(monkeypatch, moved) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: the samples of challenge labelled have the shape of the data") and "sample_shape" in line
    assert not (tmp_path / "samples" / "nfe=2").exists() and not list((tmp_path / "samples").glob(".*"))
    flags = ["--challenge", "labelled", "--methods", "custom", "--json", "s.json", "--device", "cpu"]
    assert "the samples of challenge labelled have the shape" in fails(step_seconds, monkeypatch, capsys, *flags)


def test_a_moved_checkpoint_teaches_pairs_and_trajectories(moved, tmp_path, monkeypatch, capsys):
    assert pairs.sample_shape(moved, None) == [3, 24, 24]
    flags = [moved, "--samples", 2, "--times", 2, "--steps", 2, "--device", "cpu"]
    assert call(trajectory, monkeypatch, *flags) == 0 and (tmp_path / "trajectory.png").is_file()
    small = write_data(tmp_path / "small", size=16)
    get_challenge("labelled").load("train", small)  # decoded before, without a bar beside the error
    capsys.readouterr()
    words = ["--challenge", "labelled", "--data_root", small, "--method", "gdd", "--teacher", moved, "--class_conditional"]
    line = fails(train, monkeypatch, capsys, *words, *STEPS, *TINY_FLAGS)
    assert "was trained on images of shape (3, 24, 24); here they are (3, 16, 16)" in line


def test_a_run_is_continued_but_not_at_another_resolution(run, tmp_path, monkeypatch, capsys):
    assert call(train, monkeypatch, "--resume", run.folder, "--num_iterations", 2, "--device", "cpu") == 0
    assert Run(run.folder).log()[-1]["step"] == 2
    shutil.rmtree(tmp_path / "data")
    write_data(tmp_path / "data", size=16)
    capsys.readouterr()
    assert call(train, monkeypatch, "--resume", run.folder, "--device", "cpu") == 2
    assert "--sample_shape [3, 24, 24] there, [3, 16, 16] here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (16, "give it 5 levels at most, such as --ch_mult 1 2 2 2 2 --attn 1 2"),
        (28, "give it 3 levels at most, such as --ch_mult 1 2 2 --attn 1 2"),
        (18, "give it 2 levels at most, such as --ch_mult 1 2 --attn 1"),
        (17, "give it 1 level at most, such as --ch_mult 1 --attn"),
    ],
)
def test_levels_that_do_not_divide_the_resolution(size, words):
    options = {**TINY, "ch_mult": [1] * 6, "challenge": "labelled", "sample_shape": [3, size, size]}
    with pytest.raises(ValueError, match=rf"images of {size}x{size} cannot be halved 5 times") as error:
        create_custom_model(**options)
    assert str(error.value).endswith(words)
    flags = [part.split() for part in words.partition("--")[2].split(" --")]
    create_custom_model(**{**options, **{name: list(map(int, values)) for name, *values in flags}})  # what the message says


def test_the_network_suits_32_and_64():
    for size, attended in ((32, {16, 8}), (64, {32, 16})):
        model = create_custom_model(challenge="labelled", sample_shape=[3, size, size], ch=32, num_res_blocks=1)
        seen = []
        for block in model.network.downblocks.modules():
            if type(block).__name__ == "AttnBlock":
                block.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(output.shape[-1]))
        assert model.sample((1, 3, size, size), num_inference_timesteps=1).shape == (1, 3, size, size)
        assert set(seen) == attended


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data_root", "nowhere"], "no data at nowhere: expected a folder of class folders, or a zip file in EDM's format"),
        (
            ["--data_root", "loose", "--class_conditional"],
            "--class_conditional: the data of challenge labelled have no classes",
        ),
        (["--data_root", "loose"], "images of 24x24 cannot be halved 4 times"),
    ],
)
def test_what_train_refuses(tmp_path, monkeypatch, capsys, flags, words):
    write_data(tmp_path / "data", splits=())
    (tmp_path / "data" / NAMES[0]).rename(tmp_path / "loose")
    assert call(train, monkeypatch, "--challenge", "labelled", *STEPS, *TINY_FLAGS, "--ch_mult", 1, 1, 1, 1, 1, *flags) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line and "decoding:" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]


# ----------------------------------------------------------------------------------------------------------- measuring


def test_what_samples_are_measured_against(tmp_path, capsys):
    challenge = get_challenge("labelled")
    both, one = write_data(tmp_path / "both"), write_data(tmp_path / "one", splits=())
    assert len(challenge.read_reference(both, "")) == 2 * COUNTS["val"]
    assert f"reference: 8 validation images of {both}" in capsys.readouterr().out
    assert len(challenge.read_reference(one, "")) == 2 * COUNTS["train"]
    assert f"reference: 18 training images of {one}" in capsys.readouterr().out
    assert len(challenge.read_reference(both, tmp_path / "made")) == 8 and (tmp_path / "made" / "000007.png").is_file()
    with pytest.raises(UserError, match="one has no val images"):
        challenge.read_reference(one, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_measured_against_the_data_and_against_statistics(tmp_path, monkeypatch, capsys, package_file):
    root = write_data(tmp_path / "data", splits=())
    shutil.copytree(root / NAMES[1], tmp_path / "made")
    flags = ["--challenge", "labelled", "--data_root", root, "--inception", package_file, "--device", "cpu"]
    assert call(measure_fid, monkeypatch, *flags, "--generated_dir", "made", "--write_stats", "data.npz") == 0
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "fid_results.json").read_text())
    assert f"FID pytorch-fid, 9 vs 18: {result['fid_score']:.3f}" in out and "warning: 9 generated and 18 reference" in out
    assert call(measure_fid, monkeypatch, *flags, "--generated_dir", "made", "--reference_stats", "data.npz") == 0
    again = json.loads((tmp_path / "fid_results.json").read_text())
    assert again["fid_score"] == pytest.approx(result["fid_score"], abs=1e-4) and again["stats"] == "data.npz"
    assert "warning: 9 images; published figures are of 50000" in capsys.readouterr().out


def test_edms_reference_file_is_read_as_it_is(tmp_path, monkeypatch):
    """mu and sigma in float64, and whatever else is in the file, also what only pickle could read."""
    rng = np.random.default_rng(0)
    mu, rows = rng.normal(size=2048), rng.normal(size=(2100, 2048))
    sigma = np.cov(rows, rowvar=False)
    np.savez(tmp_path / "edm.npz", mu=mu, sigma=sigma, mu_s=mu[:7], arr_0=np.array([{"a": 1}], dtype=object))
    write_statistics(Statistics(mu, sigma), tmp_path / "plain.npz")
    (tmp_path / "made").mkdir()
    for i, image in enumerate(random_images(3)):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "made" / f"{i}.png")
    challenge, measure = type(get_challenge("labelled")), Mock(return_value={"fid_pytorch": 1.0})
    monkeypatch.setattr(challenge, "load_feature_network", lambda *args: SimpleNamespace(sha256="none", source="none"))
    monkeypatch.setattr(challenge, "measure", measure)
    base = ["--challenge", "labelled", "--generated_dir", "made", "--device", "cpu"]
    for flag, file in (("--stats", "edm.npz"), ("--reference_stats", "edm.npz"), ("--stats", "plain.npz")):
        assert call(measure_fid, monkeypatch, *base, flag, file) == 0
        statistics = measure.call_args.args[1]
        assert np.array_equal(statistics.mu, mu) and np.array_equal(statistics.sigma, sigma)
        assert statistics.sigma.dtype == np.float64
