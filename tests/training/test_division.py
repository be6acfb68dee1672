"""A batch divided into micro-batches, or over processes: the same gradients, and draws of its own for every part."""

import json
from functools import partial

import numpy as np
import pytest
import torch

import measure_fid
import sampling
import train
from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.common.processes import Processes, join_processes
from src.training.config import TrainingConfig, micro_batches
from src.training.loop import Trainer
from tests.challenges.test_mnist import write_idx
from tests.evaluation.conftest import write_images
from tests.helpers import (
    BOTH_PRECISIONS,
    TINY_FLAGS,
    assert_pngs_agree,
    assert_runs_agree,
    bfloat16_error,
    call,
    random_images,
    tiny_model,
)
from tests.methods.battery import run_loop
from tests.processes import several_pythons
from tests.training.runs import CPU, log_of

SCRIPTS = {"train.py": train, "sampling.py": sampling, "measure_fid.py": measure_fid}
SMALL = f"--challenge labelled {' '.join(TINY_FLAGS)} --dropout 0.1 --lr 1e-3 --lr_warmup 0"


def run_script(script: str, flags: str, processes: int) -> None:
    """Run one of the scripts: here for one process, and as torchrun would start it in each of several."""
    if processes == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as many as each of several has
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(PROJECT_ROOT)
                assert call(SCRIPTS[script], patch, *flags.split()) == 0
        finally:
            torch.set_num_threads(threads)
        return
    several_pythons(processes, PROJECT_ROOT, script, *flags.split())


def fixed_loss(model):
    """The model with a loss that draws nothing: at one time for each row of the noise."""
    model.compute_loss = lambda data, noise, **_: (model.network(noise, noise[:, 0, 0, 0] * 100) - data).square().mean()
    return model


@BOTH_PRECISIONS
def test_micro_batches_add_up_to_the_whole_batch(tmp_path, precision):
    """Ten steps, with an average. Adam enlarges rounding of small gradients: to a tenth of its step."""
    settings = {"steps": 10, "lr": (lr := 1e-3), "precision": precision}
    for micro_batch in (0, 2, 1):
        run_loop(fixed_loss(tiny_model(dropout=0.0)), tmp_path / str(micro_batch), micro_batch=micro_batch, **settings)
    run_loop(fixed_loss(tiny_model(dropout=0.0)), tmp_path / "other", seed=1, **settings)
    if precision == "bf16":
        run_loop(fixed_loss(tiny_model(dropout=0.0)), tmp_path / "exact", **{**settings, "precision": "fp32"})
    agree = partial(assert_runs_agree, tmp_path / "0", precision=precision, exact=tmp_path / "exact", fp32=lr / 10)
    agree(tmp_path / "2")
    agree(tmp_path / "1")
    with pytest.raises(AssertionError):
        agree(tmp_path / "other")
    losses = [log_of(tmp_path / name)[-1]["loss"] for name in ("0", "2")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if precision == "fp32" else 2 * bfloat16_error(tiny_model().network))


def drawn(folder, processes=None, **config):
    """What the losses of three steps draw for their rows: (step, first number) of each call."""
    model, seen = tiny_model(), []
    compute_loss = model.compute_loss

    def recording(data, noise, step, **kwargs):
        seen.append((step, torch.rand(()).item()))
        return compute_loss(data, noise, step=step, **kwargs)

    model.compute_loss = recording
    config = TrainingConfig(batch_size=8, num_iterations=3, **config)
    Trainer(model, random_images(32), config, {}, folder, CPU, processes=processes or Processes()).run()
    return seen


class OneOfTwo(Processes):
    """One of two processes, which hears nothing of the other."""

    sum = wait = lambda self, *args: None
    first_says = staticmethod(lambda value: value)


def test_every_part_of_a_batch_has_draws_of_its_own(tmp_path):
    """New at every step, the same in a repeated run; and those of a process are those of a micro-batch of its rows."""
    whole, parts = drawn(tmp_path / "whole"), drawn(tmp_path / "parts", micro_batch=4)
    assert len(parts) == len(set(parts)) == 6 and parts == drawn(tmp_path / "again", micro_batch=4)
    assert parts[::2] == whole, "the first rows draw what the whole batch draws"
    for rank in (0, 1):
        assert drawn(tmp_path / str(rank), OneOfTwo(rank, 2)) == parts[rank::2]


@BOTH_PRECISIONS
def test_two_processes_train_and_sample_as_one(tmp_path, precision):
    """One process with micro-batches of half the batch has the same draws."""
    write_images(tmp_path / "images", random_images(12))
    flags = f"{SMALL} --data_root {tmp_path}/images --num_iterations 20 --batch_size 4 --save_dir {tmp_path}"
    run_script("train.py", f"{flags} --micro_batch 2 --precision {precision} --run_name one", 1)
    run_script("train.py", f"{flags} --precision {precision} --run_name two", 2)
    if precision == "bf16":
        run_script("train.py", f"{flags} --micro_batch 2 --precision fp32 --run_name exact", 1)
    assert_runs_agree(tmp_path / "one", tmp_path / "two", precision, tmp_path / "exact", fp32=1e-5)
    assert json.loads((tmp_path / "two" / "training_config.json").read_text())["processes"] == 2
    sample = f"--ckpt_path {tmp_path}/one/last.ckpt --device cpu --precision {precision} --num_samples 5 --nfe_list 2"
    for processes in (1, 2):
        run_script("sampling.py", f"{sample} --save_dir {tmp_path}/s{processes}", processes)
    files = sorted(path.name for path in (tmp_path / "s2" / "nfe=2").iterdir())
    assert files == [f"{index:06d}.png" for index in range(5)]
    assert_pngs_agree(tmp_path / "s2" / "nfe=2", tmp_path / "s1" / "nfe=2", precision, tiny_model().network)


@pytest.mark.slow
def test_two_processes_have_the_labels_of_one(tmp_path):
    rng = np.random.default_rng(0)
    write_idx(
        tmp_path / "digits", {"train": (rng.integers(0, 256, (40, 1, 28, 28), dtype=np.uint8), np.arange(40) % 10)}, False
    )
    flags = f"--challenge mnist --class_conditional --data_root {tmp_path}/digits --device cpu --ch 8 --dropout 0.1 --lr 1e-3"
    flags += f" --num_iterations 12 --batch_size 8 --save_dir {tmp_path} --precision fp32"
    for processes in (1, 2):
        run_script("train.py", f"{flags} --micro_batch 4 --run_name r{processes}", processes)
    assert_runs_agree(tmp_path / "r1", tmp_path / "r2", "fp32", tmp_path, fp32=1e-5)
    sample = (
        f"--ckpt_path {tmp_path}/r1/last.ckpt --device cpu --precision fp32 --num_samples 5 --nfe_list 2 --guidance_scale 2"
    )
    for processes in (1, 2):
        run_script("sampling.py", f"{sample} --save_dir {tmp_path}/s{processes}", processes)
    assert_pngs_agree(tmp_path / "s2" / "nfe=2", tmp_path / "s1" / "nfe=2", "fp32", tiny_model().network)


@pytest.mark.slow
def test_two_processes_measure_as_one(tmp_path, package_file):
    for name, seed in (("generated", 1), ("reference", 2)):
        write_images(tmp_path / name, random_images(5, seed, (3, 64, 64)))
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
    with pytest.raises(UserError, match=message), join_processes("cpu"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    with join_processes("cpu") as (processes, _):
        assert processes.size == 1


def test_shares_cover_all():
    for count, size in ((10, 3), (8, 2), (1, 4)):
        shares = [range(count)[Processes(rank, size).share(count)] for rank in range(size)]
        assert [i for share in shares for i in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_batches_that_cannot_be_divided():
    with pytest.raises(UserError, match="--micro_batch 3 does not divide --batch_size 8"):
        micro_batches(TrainingConfig(batch_size=8, micro_batch=3), Processes())
    with pytest.raises(UserError, match="--batch_size 9 cannot be divided over 2 processes"):
        micro_batches(TrainingConfig(batch_size=9), Processes(0, 2))
    assert micro_batches(TrainingConfig(batch_size=8, micro_batch=2), Processes(1, 2)) == [slice(4, 6), slice(6, 8)]
