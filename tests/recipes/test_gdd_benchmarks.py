"""GDD's benchmarks as a script: the authors' settings, its stages, what it skips and reports."""

import json
import os
import subprocess
import sys

import pytest

import measure_fid
import sampling
from src.challenges import get_challenge
from src.common.files import PROJECT_ROOT
from tests import helpers
from tests.processes import forked_python

RECIPE = PROJECT_ROOT / "recipes" / "gdd_benchmarks.sh"


def parsed(words):
    return helpers.parsed(words[words.index("train.py") + 1 :])


def scripts(calls):
    """What was called, trainings by their run's name."""
    named = [words[words.index("--run_name") + 1] if "--run_name" in words else words[0] for words in calls]
    return [f"{name} --write_stats" if "--write_stats" in words else name for name, words in zip(named, calls, strict=True)]


STAGES = ["teacher", "student", *["sampling.py", "measure_fid.py"] * 3]
CIFAR = ["--set", "cifar10", "--data_root", "cifar10.zip", "--stats", "cifar10.npz"]


def test_every_stage_once_and_in_order(recipe, tmp_path):
    code, output, calls = recipe(*CIFAR)
    out = str(tmp_path / "out")
    assert code == 0 and scripts(calls) == STAGES, output
    assert parsed(calls[1]).teacher == f"{out}/teacher" and parsed(calls[0]).auto_resume
    for seed, (sampled, measured) in enumerate(zip(calls[2::2], calls[3::2], strict=True)):
        assert sampled[1:] == [
            *["--ckpt_path", f"{out}/student/last.ckpt", "--nfe_list", "1", "--num_samples", "50000"],
            *["--seed", str(seed), "--save_dir", f"{out}/samples/seed={seed}"],
        ]
        args = measure_fid.make_parser(get_challenge("labelled")).parse_args(measured[1:])
        assert (args.generated_dir, args.stats) == (f"{out}/samples/seed={seed}/nfe=1", "cifar10.npz")
    assert "minimum of the three, which EDM and GDD report: 3.000; mean: 3.500" in output
    assert "cifar10, FID pytorch-fid, 50000 vs cifar10.npz, NFE 1\nseeds 0, 1, 2: 3.500, 3.000, 4.000" in output
    assert "and Inception): 1.54" in output and (tmp_path / "out" / "summary.txt").read_text() in output

    code, output, calls = recipe(*CIFAR)
    assert code == 0 and not calls and output.count("done already") == 2 and "mean: 3.500" in output
    (tmp_path / "out" / "fid" / "seed=1.json").unlink()
    assert scripts(recipe(*CIFAR)[2]) == ["measure_fid.py"]


AUTHORS = {  # set -> teacher: batch, steps, lr, dropout, mirrored; student: batch, steps, lr, d_lr; classes; published
    "cifar10": (512, 390625, 1e-3, 0.13, True, 256, 19532, 1e-4, 1e-4, False, "1.54"),
    "cifar10_cond": (512, 390625, 1e-3, 0.13, True, 256, 19532, 1e-4, 1e-4, True, "1.44"),
    "ffhq": (256, 781250, 2e-4, 0.05, True, 256, 39063, 2e-5, 4e-5, False, "0.85"),
    "afhqv2": (256, 781250, 2e-4, 0.25, True, 256, 39063, 2e-5, 4e-5, False, "1.23"),
    "imagenet": (4096, 610352, 1e-4, 0.1, False, 512, 19532, 8e-6, 4e-5, True, "1.16"),
}


@pytest.mark.parametrize("name", AUTHORS)
def test_the_authors_settings(recipe, name):
    code, output, calls = recipe("--set", name, "--data_root", "x.zip", "--stats", "x.npz")
    assert code == 0, output
    teacher, student = map(parsed, calls[:2])
    assert (teacher.method, student.method, student.challenge.name, student.data_root) == ("edm", "gdd", "labelled", "x.zip")
    told = (teacher.batch_size, teacher.num_iterations, teacher.lr, teacher.dropout, teacher.flip)
    told += (student.batch_size, student.num_iterations, student.lr, student.lr * student.d_lr_scale)
    *numbers, classes, published = AUTHORS[name]
    assert told == pytest.approx(tuple(numbers)) and published in output.splitlines()[-1]
    assert teacher.class_conditional == student.class_conditional == classes
    assert (student.dropout, student.flip, student.augment, student.train_levels, student.lr_warmup) == (0, False, "none", 1, 0)
    assert (student.r1_gamma, student.r1_interval, student.freeze, student.discriminator) == (1e-4, 16, True, "efficientnet")
    assert student.ema_half_lives == [0.05] and student.ema_decay == 0 and teacher.label_dropout == student.label_dropout == 0
    half_life = 50e6 if name == "imagenet" else 5e5  # images
    assert teacher.ema_decay ** (half_life / teacher.batch_size) == pytest.approx(0.5, abs=1e-3)
    assert teacher.lr_warmup == int(1e7 / teacher.batch_size)
    networks = [(args.ch, args.ch_mult, args.attn, args.num_res_blocks) for args in (teacher, student)]
    assert networks[0] == networks[1]
    size = 32 if name.startswith("cifar") else 64
    attended = {size >> level for level in teacher.attn}
    assert attended == ({32, 16, 8} if name == "imagenet" else {16})


def test_shorter_trainings(recipe):
    """Of a short teacher the average is, and the learning rate rises, over 5 % of it."""
    flags = ["--teacher_images", 8, "--student_images", "0.5", "--no_freeze", "--discriminator", "unet", "--micro_batch", 64]
    teacher, student = map(parsed, recipe(*CIFAR, *flags)[2][:2])
    assert (teacher.num_iterations, student.num_iterations) == (15625, 1954)
    assert teacher.ema_decay == 0 and teacher.ema_half_lives == [0.05] and teacher.lr_warmup == 781
    assert (student.freeze, student.discriminator, teacher.micro_batch, student.micro_batch) == (False, "unet", 64, 64)


def test_a_teacher_that_is_there(recipe):
    calls = recipe(*CIFAR, "--teacher", "results/edm", "--gpus", 4)[2]
    assert scripts([words[-len(words) :] for words in calls])[0] == "student" and parsed(calls[0]).teacher == "results/edm"
    for words in calls:
        assert words[:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4"]
    assert [words[5] for words in calls] == ["train.py", *["sampling.py", "measure_fid.py"] * 3]


def test_reference_statistics_are_made_where_none_are_given(recipe, tmp_path):
    calls = recipe(*CIFAR[:4])[2]
    stats = f"{tmp_path}/out/reference.npz"
    assert scripts(calls)[2] == "measure_fid.py --write_stats" and calls[2][-1] == stats
    args = measure_fid.make_parser(get_challenge("labelled")).parse_args(calls[2][1:])
    assert (args.data_root, args.write_stats, args.generated_dir) == ("cifar10.zip", stats, None)
    assert calls[4][calls[4].index("--stats") + 1] == stats


def test_without_fid(recipe):
    code, output, calls = recipe(*CIFAR[:4], "--no_fid")
    assert code == 0 and scripts(calls) == ["teacher", "student", *["sampling.py"] * 3] and "minimum" not in output


def test_an_interrupted_stage_is_not_done(recipe):
    code, output, calls = recipe(*CIFAR, STOP_IN="student")
    assert code == 1 and "student was interrupted" in output and scripts(calls) == STAGES[:2]
    code, output, calls = recipe("--set", "cifar10_cond", *CIFAR[2:])
    assert code == 2 and "was begun as cifar10, data cifar10.zip" in output and not calls
    code, _, calls = recipe(*CIFAR)
    assert code == 0 and scripts(calls) == STAGES[1:]


def test_the_plan(recipe, tmp_path):
    """--dry_run of both, the student's from an untrained teacher, of which nothing stays."""
    code, output, calls = recipe(*CIFAR, "--dry_run")
    assert code == 0 and scripts(calls) == ["train.py", "untrained", "train.py"]
    assert "--dry_run" in calls[0] and "--dry_run" in calls[2] and parsed(calls[1]).num_iterations == 0
    assert parsed(calls[2]).teacher == f"{tmp_path}/out/untrained" and not (tmp_path / "out" / "untrained").exists()
    assert "then 50000 images of each of the seeds 0, 1 and 2 at NFE 1; published FID: 1.54" in output
    assert scripts(recipe(*CIFAR, "--dry_run", "--teacher", "results/edm")[2]) == ["train.py"]
    assert recipe("--set", "ffhq", *CIFAR[2:], "--dry_run")[0] == 0  # nothing was begun


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "error: --set is missing: expected cifar10, cifar10_cond, ffhq, afhqv2 or imagenet"),
        (["--set", "lsun"], "error: --set lsun: expected"),
        (["--set", "ffhq"], "error: --data_root: name the training images of ffhq"),
        ([*CIFAR, "--teacher_images", "many"], "--teacher_images many, --student_images 5: expected millions of images"),
        ([*CIFAR, "--student_images", "0"], "expected millions of images"),
    ],
)
def test_bad_flags(recipe, flags, words):
    code, output, calls = recipe(*flags)
    assert code == 2 and words in output and not calls and len(output.strip().splitlines()) == 1


def smoke(tmp_path, *flags):
    env = {**os.environ, "CHALLENGE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [RECIPE, "--smoke", "--python", forked_python(), "--out", tmp_path / "out", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_smoke(tmp_path, monkeypatch):
    """Nothing stood in for: a zip is packed, both trainings are made, and three seeds sampled."""
    output = smoke(tmp_path, "--no_fid")
    assert "48 images of 16x16, 2 classes: 0 blue sky, 1 red earth" in output
    assert len(list((tmp_path / "out" / "samples").glob("seed=[012]/nfe=1/0000??.png"))) == 3 * 24
    monkeypatch.setattr(sys, "argv", ["sampling.py", "--ckpt_path", str(tmp_path / "out" / "student" / "last.ckpt")])
    assert sampling.parse()[1].shape == (3, 16, 16)


@pytest.mark.slow
def test_smoke_with_fid_and_its_plan(tmp_path, package_file):
    plan = smoke(tmp_path, "--dry_run")
    assert plan.count("time, estimated from") == 2 and not (tmp_path / "out" / "student").exists()
    output = smoke(tmp_path)
    assert "cifar10_cond, FID pytorch-fid, 24 vs" in output and "published (GDD-I" in output
    scores = [json.loads((tmp_path / "out" / "fid" / f"seed={seed}.json").read_text())["fid_score"] for seed in range(3)]
    assert f"report: {min(scores):.3f}; mean: {sum(scores) / 3:.3f}" in output and len(set(scores)) == 3
