"""A batch gives the same step however it is divided: into micro-batches, or over processes."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.training.config import TrainingConfig, micro_batches
from src.training.distributed import Team, join
from src.training.draws import DrawAsOneBatch
from tests.battery import run_loop
from tests.helpers import random_images, tiny_model

SMALL = "--data toon --device cpu --ch 8 --ch_mult 1 2 --attn 1 --num_res_blocks 1 --dropout 0.1 --lr 1e-3 --lr_warmup 0"


def weights(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def largest_difference(a, b):
    """Over all weights but the keys' biases of attention.

    Those shift all logits of a softmax alike, so their gradient is zero but for rounding, which Adam makes as large as any.
    """
    return max((a[name] - b[name]).abs().max().item() for name in a if not name.endswith("proj_k.bias"))


def run_script(script: str, flags: str, processes: int = 1) -> None:
    """Run one of the scripts as torchrun would start it in each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    commands = []
    for rank in range(processes):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        if processes > 1:
            env.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
            env.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        command = [sys.executable, str(PROJECT_ROOT / script), *flags.split()]
        commands.append(subprocess.Popen(command, env=env, cwd=PROJECT_ROOT, stderr=subprocess.PIPE, text=True))
    errors = [command.communicate()[1] for command in commands]
    assert all(command.returncode == 0 for command in commands), errors


def draws(rows: int) -> list[torch.Tensor]:
    feature_map = torch.ones(rows, 8, 4, 4)
    return [
        torch.rand(rows),
        torch.randn((rows, 2)),
        torch.randn(size=(rows, 2)),
        torch.randint(0, 10, (rows,)),
        torch.randn_like(feature_map),
        torch.empty(rows, 3).uniform_(),
        torch.bernoulli(torch.full((rows, 4), 0.5)),
        torch.nn.Dropout(0.3)(feature_map),
        torch.nn.Dropout(0.3)(feature_map.to(memory_format=torch.channels_last)),
    ]


@pytest.mark.parametrize("rows", [slice(0, 2), slice(2, 4), slice(4, 8)])
def test_draws_for_some_rows_are_those_of_the_whole_batch(rows):
    torch.manual_seed(0)
    whole = draws(8)
    torch.manual_seed(0)
    with DrawAsOneBatch(rows, 8):
        part = draws(rows.stop - rows.start)
    for expected, got in zip(whole, part, strict=True):
        torch.testing.assert_close(got, expected[rows])
    assert not torch.equal(whole[0][:2], whole[0][2:4])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_micro_batches_give_the_step_of_the_whole_batch(tmp_path, layout):
    """With dropout, random times and an EMA: 20 steps. Adam enlarges rounding of small gradients: to a tenth of its step."""
    lr = 1e-3
    for micro_batch in (0, 2, 1):
        model = tiny_model(dropout=0.1)
        run_loop(model, tmp_path / str(micro_batch), steps=20, micro_batch=micro_batch, lr=lr, memory_format=layout)
    whole = weights(tmp_path / "0")
    assert largest_difference(whole, tiny_model().state_dict()) > 10 * lr, "nothing was learned"
    assert largest_difference(whole, weights(tmp_path / "2")) < lr / 10
    assert largest_difference(whole, weights(tmp_path / "1")) < lr / 10
    rows = [json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1]) for name in ("0", "2")]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-4)
    by_time = [[value or 0.0 for value in row["loss_by_time"]] for row in rows]
    assert by_time[0] == pytest.approx(by_time[1], rel=1e-3) and max(by_time[0]) > 0


def distance(a, b):
    """The mean distance of two sets of weights."""
    pairs = [(a[name] - b[name]).abs().flatten() for name in a if not name.endswith("proj_k.bias")]
    return torch.cat(pairs).mean().item()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_processes_train_and_sample_as_one(precision, tmp_path):
    """In bfloat16 a gradient is off by roundings of 2^-9 in some 30 layers: about 1 %, as they add up at random.

    Adam hands that on: weights are off by a few per cent of the way that they went. Other batches lead elsewhere, by as much as
    that way is long.
    """
    train = f"{SMALL} --num_iterations 20 --batch_size 4 --save_dir {tmp_path} --memory_format contiguous --save_interval 10"
    train += f" --precision {precision}"
    run_script("train.py", f"{train} --run_name one")
    run_script("train.py", f"{train} --run_name two", processes=2)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    if precision == "fp32":
        assert largest_difference(one, two) < 1e-5
    else:
        run_script("train.py", f"{train} --run_name start --lr 0")
        run_script("train.py", f"{train} --run_name other --seed 43")
        start, other = weights(tmp_path / "start"), weights(tmp_path / "other")
        assert distance(one, two) < 0.05 * distance(one, start) and distance(one, other) > 0.5 * distance(one, start)
    assert json.loads((tmp_path / "two" / "training_config.json").read_text())["processes"] == 2
    sample = f"--ckpt_path {tmp_path}/one/last.ckpt --device cpu --num_samples 5 --nfe_list 2 --save_dir {tmp_path}"
    run_script("sampling.py", f"{sample}/s1 --precision {precision}")
    run_script("sampling.py", f"{sample}/s2 --precision {precision}", processes=2)
    files = sorted(path.name for path in (tmp_path / "s2" / "nfe=2").iterdir())
    assert files == [f"{index:04d}.png" for index in range(5)]
    for name in files:
        a, b = (np.asarray(Image.open(tmp_path / folder / "nfe=2" / name)).astype(int) for folder in ("s1", "s2"))
        if precision == "fp32":
            assert np.abs(a - b).max() <= 1, "a pixel differs by more than rounding"
        else:
            assert np.abs(a - b).mean() < 0.01 * a.std(), "images differ by more than rounding"


def test_two_processes_measure_as_one(tmp_path, package_file):
    for name, seed in (("generated", 1), ("reference", 2)):
        (tmp_path / name).mkdir()
        for index, pixels in enumerate(random_images(5, seed, (3, 64, 64))):
            Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / name / f"{index}.png")
    flags = f"--generated_dir {tmp_path}/generated --reference_dir {tmp_path}/reference --device cpu --inception {package_file}"
    for processes in (1, 2):
        run_script("measure_fid.py", f"{flags} --output_path {tmp_path}/{processes}.json", processes)
    one, two = (json.loads((tmp_path / f"{processes}.json").read_text()) for processes in (1, 2))
    assert one["fid_score"] > 1
    assert [two[key] for key in ("fid_clean", "fid_pytorch")] == pytest.approx([one["fid_clean"], one["fid_pytorch"]], rel=1e-4)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, but not RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: start several processes with"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two', expected a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "but not LOCAL_RANK:"),
    ],
)
def test_what_torchrun_sets_in_part(variables, message, monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message), join("cpu"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    with join("cpu") as (team, _):
        assert team.size == 1


def test_shares_cover_all():
    for count, size in ((10, 3), (8, 2), (1, 4)):
        shares = [range(count)[Team(rank, size).share(count)] for rank in range(size)]
        assert [i for share in shares for i in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_batches_that_cannot_be_divided():
    with pytest.raises(UserError, match="--micro_batch 3 does not divide --batch_size 8"):
        micro_batches(TrainingConfig(batch_size=8, micro_batch=3), Team())
    with pytest.raises(UserError, match="--batch_size 9 cannot be divided over 2 processes"):
        micro_batches(TrainingConfig(batch_size=9), Team(0, 2))
    assert micro_batches(TrainingConfig(batch_size=8, micro_batch=2), Team(1, 2)) == [slice(4, 6), slice(6, 8)]
