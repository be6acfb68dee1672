"""Classes by the commands: train.py, sampling.py, and what continues, averages and refuses them."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sampling
import train
from src.challenges.mnist import DigitsChallenge
from src.common.checkpoints import load_model
from src.common.classes import read_classes
from src.datasets.pairs import __main__ as making
from src.datasets.pairs import load_labelled_pairs
from src.runs.folder import Run
from tests.challenges.test_mnist import write_folder, write_idx
from tests.helpers import call, fill_by_rule

TRAIN = ["--challenge", "mnist", "--device", "cpu", "--ch", "8", "--data_root", "digits", "--precision", "fp32"]
SHORT = ["--batch_size", "8", "--num_iterations", "4", "--lr_warmup", "0", "--memory_format", "contiguous"]
NAMES = ["cat", "wild dog", "3", "4"]


def in_small(monkeypatch, folder):
    """Work in this folder, with 40 random digits, four of each class, and ten for validation in it, as idx files."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CHALLENGE_CACHE", str(folder / "cache"))
    monkeypatch.setattr(DigitsChallenge, "preview_samples", 2)  # 57 calls make a preview
    rng = np.random.default_rng(0)
    splits = {
        split: (rng.integers(0, 256, (n, 1, 28, 28), dtype=np.uint8), np.arange(n) % 10)
        for split, n in (("train", 40), ("val", 10))
    }
    write_idx(folder / "digits", splits, zipped=False)
    return splits


@pytest.fixture(autouse=True)
def digits(tmp_path, monkeypatch):
    return in_small(monkeypatch, tmp_path)


def assert_runs(*args):
    assert call(*args) == 0


def refused(module, monkeypatch, capsys, *argv):
    """The line with which a script ends; what was shown before are progress bars."""
    capsys.readouterr()
    assert call(module, monkeypatch, *argv) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def trained(monkeypatch, name, *flags):
    assert_runs(train, monkeypatch, *TRAIN, *SHORT, "--run_name", name, *flags)
    return f"results/{name}/last.ckpt"


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    with pytest.MonkeyPatch.context() as patch:
        in_small(patch, folder)
        return folder / trained(patch, "labelled", "--class_conditional", "--method", "edm")


@pytest.fixture
def labelled(trained_once, digits):
    """A model of classes in results/labelled, for the test alone."""
    shutil.copytree(trained_once.parent, "results/labelled")
    return "results/labelled/last.ckpt"


def sample(monkeypatch, checkpoint, *flags, count=12, save_dir="samples", nfe=("2",)):
    flags = ["--nfe_list", *nfe, "--num_samples", str(count), "--device", "cpu", "--save_dir", save_dir, *flags]
    assert_runs(sampling, monkeypatch, "--ckpt_path", checkpoint, *flags)


def table(folder="samples"):
    with open(f"{folder}/labels.csv", newline="") as file:
        return list(csv.DictReader(file))


def told_in(file):
    return json.loads(Path(file).read_text())


def pictures(folder):
    return np.stack([np.asarray(Image.open(file)) for file in sorted(Path(folder).glob("*.png"))])


def test_what_a_run_says_of_its_classes(labelled, monkeypatch, capsys):
    run = Run.of(labelled)
    assert run.model["classes"] == list("0123456789") and run.training["label_dropout"] == 0.1
    state = torch.load(labelled, weights_only=True)["state_dict"]
    assert state["network.class_embedding.weight"].shape == (11, 32)
    assert_runs(train, monkeypatch, "--resume", "results/labelled", "--num_iterations", "6", "--device", "cpu")
    assert "40 images of 10 classes" in capsys.readouterr().out
    assert [row["step"] for row in run.log()][-1] == 6
    error = refused(train, monkeypatch, capsys, "--resume", "results/labelled", "--no-class_conditional", "--device", "cpu")
    assert "--class_conditional True there, False here" in error


def test_without_the_flag_nothing_is_said_of_classes(monkeypatch):
    checkpoint = trained(monkeypatch, "plain")
    assert "classes" not in Run.of(checkpoint).model
    assert not any("class_embedding" in name for name in torch.load(checkpoint, weights_only=True)["state_dict"])
    sample(monkeypatch, checkpoint)
    assert sorted(path.name for path in (Run.of("samples").folder).iterdir()) == ["nfe=2", "sampling.json"]


def test_classes_in_turn_and_by_name_and_label(labelled, monkeypatch):
    """Image i has a label of its own, whatever the batch; a class asked for alone is the same image at its place."""
    sample(monkeypatch, labelled, "--batch_size", "5")
    assert [row["label"] for row in table()] == [str(i % 10 + 1) for i in range(12)]
    assert [row["class"] for row in table()] == [str(i % 10) for i in range(12)]
    assert [row["file"] for row in table()][:2] == ["00001.png", "00002.png"]
    sample(monkeypatch, labelled, "--batch_size", "12", save_dir="other")
    assert np.abs(pictures("samples/nfe=2").astype(int) - pictures("other/nfe=2")).max() <= 1
    assert told_in("samples/sampling.json")["nfe=2"]["classes"] == ["all"]

    sample(monkeypatch, labelled, "--classes", "3", "10", save_dir="named")  # names win over labels: "3" is the digit
    assert [row["label"] for row in table("named")] == ["4", "10"] * 6
    assert np.abs(pictures("named/nfe=2")[3].astype(int) - pictures("samples/nfe=2")[3]).max() > 0
    with Image.open("named/classes_nfe=2.png") as sheet, Image.open("samples/classes_nfe=2.png") as all_classes:
        assert sheet.height == 2 * 56 and all_classes.height == 10 * 56
    sample(monkeypatch, labelled, "--classes", "none", save_dir="none")
    assert {(row["label"], row["class"]) for row in table("none")} == {("0", "")}


def test_a_table_is_not_changed_under_other_images(labelled, monkeypatch, capsys):
    sample(monkeypatch, labelled, nfe=("2", "4"))
    before = table()
    flags = ["--ckpt_path", labelled, "--device", "cpu", "--num_samples", 12, "--classes", 3]
    line = refused(sampling, monkeypatch, capsys, *flags, "--nfe_list", 2)
    assert "samples/labels.csv is of nfe=4 too, whose images are of other classes" in line
    assert table() == before and len(pictures("samples/nfe=2")) == 12
    sample(monkeypatch, labelled, nfe=("1",))  # the same classes
    assert_runs(sampling, monkeypatch, *flags, "--nfe_list", 1, 2, 4)
    assert {row["class"] for row in table()} == {"3"}


def test_guidance_counts_both_calls(labelled, monkeypatch):
    """NFE 4 with guidance is two steps; at scale 0 it is four. Both scales: a folder each."""
    calls = []
    create = sampling.create_custom_model

    def counting(**options):
        model = create(**options)
        model.network.register_forward_hook(lambda *_: calls.append(1))
        return model

    monkeypatch.setattr(sampling, "create_custom_model", counting)
    sample(monkeypatch, labelled, "--guidance_scale", "0", "7.5", nfe=("4",), count=10)
    assert len(calls) == 8
    assert len(table("samples/scale=0")) == len(table("samples/scale=7.5")) == 10
    told = told_in("samples/scale=7.5/sampling.json")["nfe=4"]
    assert told["guidance_scale"] == 7.5 and told["guidance_interval"] == [0.0, None] and told["nfe"] == 4
    assert "guidance_scale" not in told_in("samples/scale=0/sampling.json")["nfe=4"]
    differ = np.abs(pictures("samples/scale=0/nfe=4").astype(int) - pictures("samples/scale=7.5/nfe=4"))
    assert differ.max() > 3

    calls.clear()
    sample(monkeypatch, labelled, "--guidance_scale", "2", "--guidance_interval", "0", "1e-9", nfe=("4",), save_dir="never")
    assert len(calls) == 2  # two steps, none of them guided


def test_a_scale_between_0_and_1_is_told(labelled, monkeypatch, capsys):
    sample(monkeypatch, labelled, "--guidance_scale", "0", "0.5", "1", "3", nfe=("2",), count=2, save_dir="scales")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert line.startswith("warning: --guidance_scale 0.5 is between no class (near 0) and no guidance (1)")
    assert "0 is the model alone, in one call a step" in line


def test_autoguidance(labelled, monkeypatch, capsys):
    weak = trained(monkeypatch, "weak", "--class_conditional", "--method", "edm", "--ch", "4")
    sample(monkeypatch, labelled, "--guidance_scale", "2", "--autoguidance", weak)
    sample(monkeypatch, labelled, "--guidance_scale", "2", save_dir="free")
    assert np.abs(pictures("samples/nfe=2").astype(int) - pictures("free/nfe=2")).max() > 0
    assert told_in("samples/sampling.json")["nfe=2"]["autoguidance"] == "weak/last.ckpt"
    other = trained(monkeypatch, "other", "--class_conditional", "--method", "ddpm")
    flags = ["--ckpt_path", labelled, "--device", "cpu", "--nfe_list", "2", "--guidance_scale", "2", "--autoguidance", other]
    assert "expected a model of the same method (EDM) and classes" in refused(sampling, monkeypatch, capsys, *flags)


def test_a_student_of_classes(labelled, monkeypatch):
    """A guided teacher's student by the commands: it starts from the teacher's weights, embedding of classes and all."""
    flags = ["--class_conditional", "--method", "consistency", "--teacher", "results/labelled", "--teacher_guidance", "2"]
    checkpoint = trained(monkeypatch, "student", *flags, "--num_iterations", "0")
    state, teacher = (torch.load(path, weights_only=True)["state_dict"] for path in (checkpoint, labelled))
    assert all(torch.equal(state[name], value) for name, value in teacher.items() if name.startswith("network."))
    trained(monkeypatch, "gdd", "--class_conditional", "--method", "gdd", "--teacher", "results/labelled")


def test_pairs_have_the_class_that_they_were_made_for(labelled, monkeypatch, capsys):
    model = load_model(labelled, sampling.create_custom_model).eval()
    fill_by_rule(model.network)  # four steps have taught hardly a difference between classes
    torch.save({**torch.load(labelled), "state_dict": model.state_dict()}, labelled)
    flags = [
        "--teacher",
        "results/labelled",
        "--count",
        23,
        "--steps",
        2,
        "--out",
        "pairs",
        "--device",
        "cpu",
        "--batch_size",
        5,
        "--precision",
        "fp32",
    ]
    assert_runs(making, monkeypatch, *flags)
    images, seeds, labels, classes = load_labelled_pairs("pairs")
    assert labels.tolist() == [i % 10 + 1 for i in range(23)] and classes == tuple("0123456789")
    shorter = load_labelled_pairs("pairs", drop_longest=0.5)
    kept = [seeds.tolist().index(seed) for seed in shorter[1]]
    assert shorter[2].tolist() == [labels[i] for i in kept]
    with torch.no_grad():
        again = model.sample((23, 1, 28, 28), 2, seeds=seeds.tolist(), labels=torch.from_numpy(labels))
        others = model.sample((23, 1, 28, 28), 2, seeds=seeds.tolist(), labels=torch.from_numpy(labels) % 10 + 1)
    torch.testing.assert_close(torch.from_numpy(images).float(), again, atol=5e-3, rtol=5e-3)
    assert (others - again).abs().mean() > 0.02
    trained(monkeypatch, "reflowed", "--class_conditional", "--method", "reflow", "--pairs", "pairs")
    assert Run.of("results/reflowed").model["classes"] == list("0123456789")

    trained(monkeypatch, "plain", "--method", "edm")
    flags[1], flags[7] = "results/plain", "plain_pairs"
    assert_runs(making, monkeypatch, *flags)
    words = ["--class_conditional", "--method", "reflow", "--pairs", "plain_pairs"]
    line = refused(train, monkeypatch, capsys, *TRAIN, *SHORT, *words)
    assert "--class_conditional: the teacher of --pairs plain_pairs has no classes" in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--classes", "cat"], "--classes cat: no such class; expected all, none, or of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        (["--classes", "11"], "--classes 11: no such class"),
        (["--classes", "1", "all"], "--classes all: no such class"),
        (["--guidance_scale", "-1"], "--guidance_scale: expected a number of at least 0"),
        (["--guidance_scale", "2", "--nfe_list", "1"], "--nfe_list 1: a guided step makes two calls"),
        (["--guidance_scale", "2", "--guidance_interval", "3", "1"], "0 <= low < high, got 3 to 1"),
        (["--autoguidance", "results/labelled/last.ckpt"], "need a --guidance_scale above 0"),
        (["--guidance_scale", "2", "--autoguidance", "nowhere.ckpt"], "nowhere.ckpt"),
    ],
)
def test_what_cannot_be_sampled_is_one_line(labelled, monkeypatch, capsys, flags, words):
    flags = ["--ckpt_path", labelled, "--device", "cpu", "--num_samples", "2", "--nfe_list", "2", *flags]
    error = refused(sampling, monkeypatch, capsys, *flags)
    assert words in error


def test_a_model_without_classes_cannot_be_asked_for_one(monkeypatch, capsys):
    plain = trained(monkeypatch, "plain")
    flags = ["--ckpt_path", plain, "--device", "cpu", "--nfe_list", "2"]
    assert "was trained without classes" in refused(sampling, monkeypatch, capsys, *flags, "--classes", "1")
    assert "was trained without classes" in refused(sampling, monkeypatch, capsys, *flags, "--guidance_scale", "2")
    average = trained(monkeypatch, "average", "--method", "meanflow")
    flags[1] = average
    assert "MeanFlow cannot be guided: what its network predicts is not linear" in refused(
        sampling, monkeypatch, capsys, *flags, "--guidance_scale", "2"
    )


def test_what_cannot_be_trained_is_one_line(toon, monkeypatch, capsys, digits, tmp_path):
    error = refused(train, monkeypatch, capsys, *TRAIN, *SHORT, "--class_conditional", "--method", "ctm")
    assert "method ctm takes no labels; those that do: " in error
    write_folder(tmp_path / "pictures", digits["train"][0])
    flags = [word.replace("digits", "pictures") for word in TRAIN]
    error = refused(train, monkeypatch, capsys, *flags, *SHORT, "--class_conditional")
    assert "--class_conditional: the data of challenge mnist have no classes" in error
    error = refused(train, monkeypatch, capsys, "--challenge", "toon", "--class_conditional", "--device", "cpu", *SHORT)
    assert "--class_conditional: the data of challenge toon have no classes" in error
    error = refused(train, monkeypatch, capsys, *TRAIN, *SHORT, "--label_dropout", "1.5")
    assert "label_dropout" in error
    trained(monkeypatch, "teacher", "--method", "edm")
    flags = ["--class_conditional", "--method", "gdd", "--teacher", "results/teacher"]
    assert "a model of no classes cannot teach one of 10" in refused(train, monkeypatch, capsys, *TRAIN, *SHORT, *flags)


def test_words_for_classes():
    assert read_classes(["all"], NAMES) is None and read_classes(["none"], NAMES) == [0]
    assert read_classes(["wild dog", "1", "4"], NAMES) == [2, 1, 4] and read_classes(["3"], NAMES) == [3]
