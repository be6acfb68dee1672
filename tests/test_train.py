"""train.py as a user meets it: flags, presets, continuing, and what it refuses."""

import json
import os
import re
import signal
import sys

import pytest
import torch

import train
from src.challenges import toon as toon_file
from src.challenges.shared.images import ImageChallenge
from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.common.locks import owned
from src.evaluation.weights import load_inception
from src.methods import get_method, method_names
from src.training.config import PRESETS
from src.training.starting import init_network
from src.training.step import TrainingStep
from tests import shipped
from tests.helpers import BOTH_PRECISIONS, FACES_FLAGS, call, fails, parsed, slow_but, tiny_model
from tests.processes import Python
from tests.training.runs import equal, log_of

TOON = [*FACES_FLAGS, "--challenge", "toon", "--batch_size", 4]


def stop_at_first_save(monkeypatch, *flags):
    """Begin a run with these flags, and end it as soon as it has saved."""
    save = train.Trainer.save

    def stop(trainer, *args, **kwargs):
        save(trainer, *args, **kwargs)
        raise UserError(f"stopped by the test at step {trainer.state.step}")

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "save", stop)
        assert call(train, patch, *flags) == 2


def test_resume_continues_the_run(toon, tmp_path, monkeypatch, capsys):
    flags = [*TOON, "--save_dir", tmp_path]
    assert call(train, monkeypatch, *flags, "--num_iterations", 1, "--run_name", "a") == 0
    assert call(train, monkeypatch, *flags, "--num_iterations", 3, "--resume", tmp_path / "a" / "last.ckpt") == 0
    assert torch.load(tmp_path / "a" / "resume.pt", weights_only=True)["step"] == 3
    capsys.readouterr()
    line = fails(train, monkeypatch, capsys, *flags, "--resume", tmp_path / "a", "--time_scale", 3, "--lr", 0.5)
    assert "--time_scale 1000.0 there, 3.0 here" in line and "--lr 0.0001 there, 0.5 here" in line
    line = fails(train, monkeypatch, capsys, *flags, "--resume", tmp_path / "a", "--method", "rectified_flow")
    assert "--method custom there, rectified_flow here" in line
    assert "holds a run already" in fails(train, monkeypatch, capsys, *flags, "--run_name", "a")


@BOTH_PRECISIONS
@pytest.mark.parametrize("given", slow_but(["--resume"], ["--resume", "--auto_resume", "--auto_resume --precision auto"]))
def test_a_continued_run_keeps_its_precision(toon, tmp_path, monkeypatch, capsys, precision, given):
    """Where auto means the other one the steps that are left are those of the uninterrupted run; it is refused by name."""
    run, other = tmp_path / "parts", {"fp32": "bf16", "bf16": "fp32"}[precision]
    flags = [*TOON, "--save_dir", tmp_path, "--num_iterations", 4, "--save_interval", 2]
    named = [*flags, "--precision", precision, "--run_name"]
    assert call(train, monkeypatch, *named, "whole") == 0
    stop_at_first_save(monkeypatch, *named, "parts")
    again = ["--resume", run, "--device", "cpu"] if given == "--resume" else [*flags, "--run_name", "parts", *given.split()]
    capsys.readouterr()
    assert "cannot be continued with other settings: --precision" in fails(
        train, monkeypatch, capsys, *again, "--precision", other
    )
    monkeypatch.setenv("CHALLENGE_PRECISION", other)
    assert call(train, monkeypatch, *again) == 0
    name = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    assert f"cpu, {name} -> {run} (continued)" in capsys.readouterr().out
    assert json.loads((run / "training_config.json").read_text())["precision"] == name
    whole, parts = (torch.load(tmp_path / folder / "resume.pt", weights_only=True) for folder in ("whole", "parts"))
    assert parts["step"] == 4 and equal(whole["model"], parts["model"])


def test_preset_is_a_default_that_flags_override():
    args = parsed(["--preset", "small", "--ch", "24"])
    assert args.ch == 24 and args.num_res_blocks == PRESETS["small"].flags["num_res_blocks"] and parsed([]).ch == 128


def test_course_defaults():
    args = vars(parsed([]))
    course = {"batch_size": 32, "num_iterations": 100000, "lr": 1e-4, "save_dir": "./results", "device": "cuda"}
    course |= {"log_interval": 100, "save_interval": 10000, "seed": 42, "num_train_timesteps": 1000}
    course |= {"use_additional_condition": False, "ch": 128, "ch_mult": [1, 2, 2, 2], "attn": [1], "dropout": 0.1}
    assert {name: args[name] for name in course} == course


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data_root", "absent.zip"], "no data at absent.zip"),
        (["--method", "flow"], "argument --method: invalid choice: 'flow'"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
        (["--batch", "3"], "unrecognized arguments: --batch 3"),
        (["--batch_size", "0"], "at least 1, got '0'"),
        (["--lr", "fast"], "expected a number of at least 0, got 'fast'"),
        (["--lr", "nan"], "got 'nan'"),
        (["--time_distribution", "cosine"], "invalid choice: 'cosine'"),
        (["--preset", "huge"], "invalid choice: 'huge'"),
        (["--challenge", "toon", "--attn", "7"], "attn [7]"),
        (["--challenge", "toon", "--method", "rectified_flow", "--use_additional_condition"], "no use for the additional"),
        (
            ["--challenge", "toon", "--dev_images", "12"],
            "--dev_images 12 leaves nothing to train on: there are 12 training images",
        ),
        (["--challenge", "toon", "--dev_images", "1"], "FID needs at least two images"),
        (["--dev_images", "5", "2", "1"], "argument --dev_images: expected at most 2 values, got 5 2 1"),
        (["--lr_decay", "0.5", "stairs"], "unknown lr_schedule 'stairs'"),
        (["--lr_decay", "-1"], "argument --lr_decay: expected a number of at least 0, got '-1'"),
        (["--log_interval", "5", "tensorbord"], "expected the word tensorboard, got 'tensorbord'"),
        (["--ema_half_lives", "decay_0.9", "decay_0.8"], "expected one decay_D at most"),
        (["--method", "gdd"], "--method gdd learns from a teacher: name its run with --teacher"),
        (["--lr_schedule", "cosine"], "error: --lr_schedule is now --lr_decay SHARE cosine"),
        (["--eval_interval=5"], "error: --eval_interval is now --dev_images IMAGES STEPS"),
        (["--data", "toon"], "error: --data is now --challenge"),
        (["--challenge", "toon", "--batch_size", "13"], "--batch_size 13 is larger than the data set of 12 images"),
        (["--challenge", "toon", "--batch_size", "8", "--micro_batch", "3"], "--micro_batch 3 does not divide --batch_size 8"),
        (["--challenge", "toon", "--resume", "nowhere"], "no file nowhere/training_config.json"),
    ],
)
def test_train_refuses(toon, tmp_path, monkeypatch, capsys, flags, message):
    assert message in fails(train, monkeypatch, capsys, "--device", "cpu", *flags, "--save_dir", tmp_path / "r", "--ch", 8)
    assert not (tmp_path / "r").exists()


def test_dry_run_tells_and_writes_nothing(toon, tmp_path, monkeypatch, capsys):
    flags = [*TOON, "--num_iterations", 3, "--save_dir", tmp_path / "r", "--micro_batch", 2, "--precision", "fp32"]
    assert call(train, monkeypatch, *flags, "--dry_run") == 0
    out = capsys.readouterr().out
    config, _ = json.JSONDecoder().raw_decode(out)
    assert config["num_iterations"] == 3 and config["micro_batch"] == 2 and config["ch_mult"] == [1, 2, 2, 2]
    assert config["precision"] == "float32"
    for words in (
        "parameters: ",
        "GFLOP per image",
        "memory per process, estimated: ",
        "activations of 2 images",
        "s per step",
    ):
        assert words in out
    assert not (tmp_path / "r").exists()


def test_all_methods_at_a_glance(monkeypatch, capsys):
    assert call(train, monkeypatch, "--method", "list") == 0
    header, *rows = capsys.readouterr().out.splitlines()[:-2]
    assert [row.split()[0] for row in rows] == method_names()
    lines = dict(zip(method_names(), rows, strict=True))
    assert "arXiv:2505.13447" in lines["meanflow"] and " images " in lines["meanflow"] and " pairs " in lines["reflow"]
    assert "images, or a teacher" in lines["consistency"] and "a teacher" in lines["gdd"]
    column = header.index("cost")
    costs = {name: lines[name][column:].split()[0] for name in shipped.METHODS}
    assert costs.pop("custom") == "-" and all(0.9 < float(cost) < 30 for cost in costs.values())
    assert costs["rectified_flow"] == "1" and costs["meanflow"] == "2.4" and costs["ld3"] == "14"
    guided = {name for name, row in lines.items() if row[header.index("guidance") :].startswith("yes")}
    assert {"edm", "ddpm", "rectified_flow"} <= guided and not guided & {"meanflow", "shortcut", "ctm", "ld3"}


@pytest.mark.parametrize(
    "method", slow_but(["meanflow", "gdd"], [name for name in method_names() if not get_method(name).needs_pairs])
)
def test_dry_run_of_every_method(method, toon, tmp_path, monkeypatch, capsys):
    flags = [*TOON, "--method", method, "--save_dir", tmp_path, "--dry_run"]
    if get_method(method).needs_teacher:
        teacher = [*TOON, "--method", "edm", "--num_iterations", 0, "--save_dir", tmp_path, "--run_name", "teacher"]
        assert call(train, monkeypatch, *teacher) == 0
        flags += ["--teacher", tmp_path / "teacher"]
    capsys.readouterr()
    assert call(train, monkeypatch, *flags) == 0
    assert "GFLOP per image" in capsys.readouterr().out


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_flags_and_are_printed(name, toon, tmp_path, monkeypatch, capsys):
    """Each with the tiny network, so that a dry run takes no time; every flag of the preset is in what it prints."""
    flags = ["--preset", name, *TOON, "--micro_batch", 0, "--dev_images", 0, 0, "--dry_run"]
    assert call(train, monkeypatch, *flags, "--save_dir", tmp_path / "r") == 0
    printed = capsys.readouterr().out.splitlines()[1]
    assert all(f"--{flag}" in printed.split() for flag in PRESETS[name].flags if flag != "eval_interval")
    assert vars(parsed(["--preset", name])).items() >= PRESETS[name].flags.items()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    flags = ["--challenge", "toy2d", "--data_root", "moons", "--batch_size", 4, "--num_iterations", 1]
    flags += ["--save_dir", tmp_path, "--run_name", "r", "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda path, *rest: path != tmp_path / "r")
        line = fails(train, monkeypatch, capsys, *flags)
    assert line == f"error: cannot write {tmp_path}/r/last.ckpt: Permission denied"


def test_a_presets_text_has_what_is_used():
    """As it is typed: with the second word of a flag that has one."""
    about, used, given = parsed(["--preset", "laptop", "--ch", 24, "--attn", 0, 1, "--no-auto_resume"]).preset.splitlines()
    assert about == f"preset laptop: {PRESETS['laptop'].about}"
    assert used.startswith("  --ch 24 --ch_mult 1 2 4 4 --attn 0 1 ") and used.endswith(" --no-auto_resume")
    assert given == "  given beside it, instead of --ch 32 --attn 2 --auto_resume"
    plain = parsed(["--preset", "single-gpu", "--dev_images", 50]).preset
    assert "--dev_images 50 10000 " in plain and plain.endswith("\n  given beside it, instead of --dev_images 500 10000")


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("--lr_decay 0.3", {"lr_decay": 0.3, "lr_schedule": "linear"}),
        ("--lr_decay 0.3 cosine", {"lr_decay": 0.3, "lr_schedule": "cosine"}),
        ("--lr_decay cosine", {"lr_decay": 0.0, "lr_schedule": "cosine"}),
        ("--dev_images 50", {"dev_images": 50, "eval_interval": 0}),
        ("--dev_images 50 7", {"dev_images": 50, "eval_interval": 7}),
        ("--log_interval 3 tensorboard", {"log_interval": 3, "tensorboard": True}),
        ("--ema_half_lives decay_0.99 0.1 0", {"ema_decay": 0.99, "ema_half_lives": [0.1, 0.0]}),
        ("--ema_half_lives decay_0.99", {"ema_decay": 0.99, "ema_half_lives": [0.05]}),
        ("--pairs folder 0.25", {"pairs": "folder", "drop_longest": 0.25}),
        ("--challenge mnist --lr_decay 0.1", {"lr_decay": 0.1, "flip": False}),
    ],
)
def test_flags_of_several_words(words, fields):
    assert vars(parsed(words.split())).items() >= fields.items()


def test_help_has_what_does_something(monkeypatch, capsys):
    """At most 40 flags for the course's own model; those of teachers, pairs and classes where there are some."""
    pages = {}
    for method, challenge in (("custom", "simpsons"), ("gdd", "mnist"), ("reflow", "toon")):
        assert call(train, monkeypatch, "--method", method, "--challenge", challenge, "--help") == 0
        pages[method] = set(re.findall(r"^  --(\w+)", capsys.readouterr().out, re.MULTILINE))
    assert len(pages["custom"]) <= 40 and {"ema_half_lives", "time_scale"} <= pages["custom"]
    special = {"teacher", "pairs", "class_conditional", "max_per_class", "label_dropout"}
    shown = {method: special & flags for method, flags in pages.items()}
    assert shown == {"custom": set(), "gdd": special - {"pairs"}, "reflow": {"pairs"}}


def test_auto_resume(toon, tmp_path, monkeypatch, capsys):
    """The same command goes on with what it began, and begins anew where there is nothing of its own."""
    flags = [*TOON, "--num_iterations", 4, "--auto_resume", "--save_interval", 2, "--save_dir", tmp_path]
    assert call(train, monkeypatch, *flags, "--run_name", "other", "--lr", 1e-3) == 0
    stop_at_first_save(monkeypatch, *flags)
    capsys.readouterr()
    assert call(train, monkeypatch, *flags) == 0
    assert "(continued)" in capsys.readouterr().out
    (run,) = [path for path in tmp_path.iterdir() if path.name != "other"]
    assert torch.load(run / "resume.pt", weights_only=True)["step"] == 4
    assert "--lr 0.001 there, 0.0001 here" in fails(train, monkeypatch, capsys, *flags, "--run_name", "other")


def test_a_run_has_one_process(toon, tmp_path, monkeypatch, capsys):
    """Whoever comes second, by the run's name or by the same command, is told who has it; names of one second differ."""
    flags = [*TOON, "--num_iterations", 1, "--save_dir", tmp_path]
    holder = rf" by process {os.getpid()} on {os.uname().nodename} since "
    with owned(tmp_path / "a"):
        assert f"a is in use{holder}" in fails(train, monkeypatch, capsys, *flags, "--run_name", "a")
    command = ["train.py", *map(str, flags), "--auto_resume"]
    monkeypatch.setattr(sys, "argv", command)
    with owned(tmp_path / "b"):
        line = fails(train, monkeypatch, capsys, *command[1:])
        assert f"b is trained by the same command: {holder.removeprefix(' by ')}" in line
        assert call(train, monkeypatch, *command[1:], "--seed", 1, "--run_name", "other") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    monkeypatch.setattr(train, "get_current_time", lambda: "11-30-120000")
    for _ in range(3):
        assert call(train, monkeypatch, *flags) == 0
    names = ["11-30-120000", "11-30-120000_2", "11-30-120000_3", "other"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.slow
def test_a_run_whose_images_have_changed_says_so(toon, tmp_path, monkeypatch, capsys):
    flags = [*TOON, "--save_dir", tmp_path, "--run_name", "r", "--num_iterations"]
    assert call(train, monkeypatch, *flags, 1) == 0
    again = ["--resume", tmp_path / "r", "--device", "cpu", "--num_iterations"]
    assert call(train, monkeypatch, *again, 2) == 0
    assert "warning" not in capsys.readouterr().out
    monkeypatch.setitem(toon_file.SPLITS, 64, {"train": (13, 1), "val": (6, 2)})
    assert call(train, monkeypatch, *again, 3) == 0
    assert "r: here are 13 training images, and there were 12; it goes on with these" in capsys.readouterr().out
    monkeypatch.setitem(toon_file.SPLITS, 64, {"train": (13, 3), "val": (6, 2)})
    assert call(train, monkeypatch, *again, 4) == 0
    assert "r: here are other training images than before; it goes on with these" in capsys.readouterr().out
    assert call(train, monkeypatch, *again, 5) == 0
    assert "warning" not in capsys.readouterr().out, "it was said"


POINTS = ["--challenge", "toy2d", "--data_root", "moons", "--device", "cpu", "--batch_size", 64, "--log_interval", 1]
BROKEN = """
import os, runpy, signal, sys, threading, time
from pathlib import Path

def break_and_interrupt():  # as Ctrl-C does to `train.py ... 2>&1 | tee log`: tee dies first
    while not log.is_file() or log.read_bytes().count(b"\\n") < 5:
        time.sleep(0.01)
    os.close(reader)
    os.kill(os.getpid(), signal.SIGINT)

log = Path(sys.argv[1]) / "run" / "log.jsonl"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what runs in the background ignore it
reader, writer = os.pipe()
os.dup2(writer, 1), os.dup2(writer, 2)
threading.Thread(target=break_and_interrupt, daemon=True).start()
sys.argv = ["train.py", "--save_dir", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""


def test_a_pipe_that_breaks_loses_no_work(tmp_path):
    flags = [*POINTS, "--num_iterations", 10**6, "--run_name", "run"]
    code, _, _ = Python(PROJECT_ROOT, "-c", BROKEN, tmp_path, *flags).ended()
    assert code == 130
    step = torch.load(tmp_path / "run" / "resume.pt", weights_only=True)["step"]
    assert step >= 5 and log_of(tmp_path / "run")[-1]["step"] == step
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert (checkpoint["step"], checkpoint["average"]) == (step, 0.02), "toy2d's half-life"


@pytest.mark.slow
def test_fid_on_the_development_split(toon, tmp_path, monkeypatch, package_file):
    monkeypatch.setattr(ImageChallenge, "load_feature_network", lambda challenge, device: load_inception(package_file, device))
    flags = [*TOON, "--num_iterations", 4, "--save_dir", tmp_path, "--run_name", "r"]
    assert call(train, monkeypatch, *flags, "--dev_images", 5, 2, "--ema_half_lives", 0.1, 0.5) == 0
    rows = [row for row in log_of(tmp_path / "r") if "ema_half_life" in row]
    assert [(row["step"], row["ema_half_life"]) for row in rows] == [(2, 0.1), (4, 0.1), (4, 0.5)]
    assert all(row[f"fid_nfe{nfe}"] > 0 for row in rows for nfe in (1, 2, 4))
    config = json.loads((tmp_path / "r" / "training_config.json").read_text())
    assert config["num_training_images"] == 12 - 5


def test_a_full_disk_keeps_the_last_good_checkpoint(toon, tmp_path, monkeypatch, capsys):
    """The second save fails as a full disk makes it fail; the error says how much was needed."""
    save, saves = torch.save, []

    def full_at_the_second(value, path):
        saves.append(path)
        if len(saves) > 2:  # last.ckpt and resume.pt of step 2 came before
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
        save(value, path)

    monkeypatch.setattr(torch, "save", full_at_the_second)
    flags = [*TOON, "--num_iterations", 4, "--save_interval", 2, "--save_dir", tmp_path, "--run_name", "r"]
    assert call(train, monkeypatch, *flags) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "cannot write" in line and "needed" in line and "MB are free" in line
    assert torch.load(tmp_path / "r" / "resume.pt", weights_only=True)["step"] == 2
    assert not list((tmp_path / "r").glob(".*"))


def test_tensorboard_is_named_where_it_is_missing(toon, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    flags = [*TOON, "--num_iterations", 1, "--log_interval", 1, "tensorboard", "--save_dir", tmp_path]
    assert call(train, monkeypatch, *flags) == 2
    assert "pip install tensorboard" in capsys.readouterr().err


def test_init_from_another_run(toon, tmp_path, monkeypatch, capsys):
    """Of another method; a network without the condition gives its weights to one with it."""
    flags = [*TOON, "--save_dir", tmp_path, "--num_iterations", 0]
    assert call(train, monkeypatch, *flags, "--method", "rectified_flow", "--run_name", "a", "--seed", 7) == 0
    first = torch.load(tmp_path / "a" / "last.ckpt", weights_only=True)["state_dict"]
    assert call(train, monkeypatch, *flags, "--run_name", "b", "--init_from", tmp_path / "a") == 0
    state = torch.load(tmp_path / "b" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(state[key], value) for key, value in first.items())
    conditioned = tiny_model(use_additional_condition=True, ch_mult=(1, 2, 2, 2), attn=(3,)).network
    init_network(conditioned, tmp_path / "a" / "last.ckpt")
    assert torch.equal(conditioned.head.weight, first["network.head.weight"])
    capsys.readouterr()
    wide = fails(train, monkeypatch, capsys, *flags, "--ch", 16, "--init_from", tmp_path / "a")
    assert "is of another network: it has in another shape" in wide
    assert "no checkpoint at" in fails(train, monkeypatch, capsys, *flags, "--init_from", tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["bare", "one network", "model", "compiled", "with an average"])
def test_init_from_what_sampling_takes(kind, tmp_path):
    """A state dict without a wrapping, a network alone or under another name, names of torch.compile; network. of several."""
    source, fresh = tiny_model().network.state_dict(), tiny_model().network
    prefixes = {"one network": ("",), "model": ("model.unet.",), "compiled": ("network._orig_mod.",)}
    saved = {prefix + name: value for prefix in prefixes.get(kind, ("network.",)) for name, value in source.items()}
    if kind == "with an average":
        saved |= {f"ema_network.{name}": value + 1 for name, value in source.items()}
    torch.save(saved if kind == "bare" else {"state_dict": saved}, tmp_path / "model.pt")
    for parameter in fresh.parameters():
        torch.nn.init.zeros_(parameter)
    init_network(fresh, tmp_path / "model.pt")
    assert all(torch.equal(value, source[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize(
    ("number", "code"),
    slow_but(
        [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
        [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138), (signal.SIGUSR2, 140)],
    ),
)
def test_a_stopped_training_ends_with_the_code_that_shells_expect(number, code, toon, tmp_path, monkeypatch, capsys):
    """With everything saved; a run that was over does not."""
    step = TrainingStep.__call__

    def stopped(steps, at):
        step(steps, at)
        if at == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(TrainingStep, "__call__", stopped)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup lets the tests ignore it
    flags = [*TOON, "--save_dir", tmp_path, "--run_name", "run"]
    assert call(train, monkeypatch, *flags, "--num_iterations", 9) == code
    assert "everything saved: continue it with --resume" in capsys.readouterr().out
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler), "the handler is gone after the run"
    assert call(train, monkeypatch, "--resume", tmp_path / "run", "--device", "cpu") == 0


def test_a_damaged_log_stops_no_resume(toon, tmp_path, monkeypatch, capsys):
    flags = [*TOON, "--save_dir", tmp_path, "--run_name", "run", "--log_interval", 1]
    assert call(train, monkeypatch, *flags, "--num_iterations", 3) == 0
    log = tmp_path / "run" / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + b"\xff\xfe" + lines[1] + lines[2])
    assert call(train, monkeypatch, "--resume", tmp_path / "run", "--device", "cpu", "--num_iterations", 5) == 0
    assert "line 2 is damaged, and left out" in capsys.readouterr().out
    assert [row["step"] for row in log_of(tmp_path / "run")] == [1, 3, 4, 5]
