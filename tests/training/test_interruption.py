"""Runs that are killed, stopped or damaged, and what is left of them."""

import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

from src.training import loop
from src.training.checkpoint import has_resume, read_resume
from src.training.config import TrainingConfig, learning_rate
from src.training.ema import export, measured_fids
from src.training.log import RunLog
from src.training.loop import Trainer
from src.utils import UserError, load_model
from tests.battery import run_loop
from tests.helpers import TINY, random_images, tiny_model

CPU = torch.device("cpu")
STEPS = 120


def weights(folder, name="last.ckpt"):
    return torch.load(folder / name, weights_only=True)["state_dict"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def run(folder, resume: bool, steps: int = STEPS) -> bool:
    """A run that saves at every other step, and draws nothing, so that many kills hit the writing of a checkpoint."""
    torch.set_num_threads(1)
    loop.save_preview = RunLog.plot = lambda *args: None
    config = TrainingConfig(
        batch_size=4, num_iterations=steps, lr=1e-3, lr_warmup=5, log_interval=3, save_interval=2, memory_format="contiguous"
    )
    options = {"method": "custom", **TINY, "dropout": 0.1}
    model = tiny_model(dropout=0.1)
    return Trainer(model, random_images(32), config, options, folder, CPU).run(resume)


def test_killed_twenty_times_and_resumed_is_the_uninterrupted_run(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.test_interruption", "torch._dynamo"])  # what every life would import
    whole = context.Process(target=run, args=(tmp_path / "whole", False))
    whole.start()
    whole.join()
    assert whole.exitcode == 0

    folder, rng, kills = tmp_path / "killed", random.Random(0), 0
    while kills < 20:
        process = context.Process(target=run, args=(folder, has_resume(folder)))
        process.start()
        before = _last_save(folder)
        while process.is_alive() and _last_save(folder) == before:  # let it begin, so that each life gets somewhere
            time.sleep(0.005)
        process.join(rng.uniform(0, 0.15))
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        for path in folder.glob("*.*"):  # hidden files are unfinished ones
            if path.suffix in (".ckpt", ".pt"):
                torch.load(path, weights_only=True)
            elif path.suffix == ".json":
                json.loads(path.read_text())
    assert kills == 20, "the run was over before it was killed often enough"
    process = context.Process(target=run, args=(folder, True))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert equal(weights(tmp_path / "whole"), weights(folder))
    assert equal(read_resume(tmp_path / "whole")["model"], read_resume(folder)["model"])
    assert not list(folder.glob(".*.partial"))


def _last_save(folder) -> int:
    """When last.ckpt was written, which is replaced in one step; 0 while there is nothing to continue from."""
    return (folder / "last.ckpt").stat().st_mtime_ns if has_resume(folder) else 0


def test_sigterm_saves_and_stops(tmp_path):
    model = tiny_model()
    model.on_step_end = lambda step, total: os.kill(os.getpid(), signal.SIGTERM) if step == 5 else None
    config = TrainingConfig(batch_size=8, num_iterations=100)
    assert Trainer(model, random_images(32), config, {}, tmp_path, CPU).run() is False
    assert read_resume(tmp_path)["step"] == 5 and (tmp_path / "last.ckpt").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "the handler is gone after the run"


def test_max_minutes_stops_in_time_with_everything_saved(tmp_path):
    model, start = tiny_model(), time.monotonic()
    config = TrainingConfig(batch_size=8, num_iterations=10**6, log_interval=2)
    assert Trainer(model, random_images(32), config, {}, tmp_path, CPU, deadline=start + 6).run() is False
    assert time.monotonic() < start + 6
    assert read_resume(tmp_path)["step"] > 0 and weights(tmp_path) and (tmp_path / "training_curves.png").exists()


def test_a_damaged_file_is_named_and_the_one_before_used(tmp_path, capsys):
    run_loop(tiny_model(), tmp_path, steps=4, save_interval=2)
    content = bytearray((tmp_path / "resume.pt").read_bytes())
    saved = torch.load(tmp_path / "resume.pt", weights_only=True)
    saved["model"]["network.head.bias"][0] += 1  # a file that loads, but is not what was written
    torch.save(saved, tmp_path / "resume.pt")
    assert read_resume(tmp_path)["step"] == 2
    assert "resume.pt: damaged (its checksum differs)" in capsys.readouterr().out
    (tmp_path / "resume.pt").write_bytes(content[: len(content) // 2])
    assert read_resume(tmp_path)["step"] == 2
    (tmp_path / "resume_previous.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"resume\.pt: .*resume_previous\.pt: "):
        read_resume(tmp_path)


def test_the_last_line_of_a_killed_log_is_dropped(tmp_path):
    run_loop(tiny_model(), tmp_path, steps=2)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    run_again = TrainingConfig(batch_size=8, num_iterations=4, lr=1e-2, lr_warmup=0, log_interval=2)
    Trainer(tiny_model(), random_images(32), run_again, {}, tmp_path, CPU).run(resume=True)
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [2, 4]


def test_a_run_that_is_done_says_so(tmp_path, capsys):
    run_loop(tiny_model(), tmp_path, steps=2)
    before = (tmp_path / "last.ckpt").stat().st_mtime_ns
    config = TrainingConfig(batch_size=8, num_iterations=2, lr=1e-2, lr_warmup=0)
    assert Trainer(tiny_model(), random_images(32), config, {}, tmp_path, CPU).run(resume=True) is True
    assert "has made its 2 steps already" in capsys.readouterr().out
    assert (tmp_path / "last.ckpt").stat().st_mtime_ns == before


def test_averages_side_by_side_and_their_choice(tmp_path):
    """The average with the lowest FID becomes last.ckpt; the others can be exported."""
    scores = iter([{"fid_nfe1": 9.0, "fid_nfe2": 4.0}, {"fid_nfe1": 4.0, "fid_nfe2": 4.0}, {"fid_nfe1": 16.0, "fid_nfe2": 3.0}])
    config = TrainingConfig(batch_size=8, num_iterations=6, lr=1e-2, lr_warmup=0, ema_half_lives=[0.5, 0.0, 0.2])
    model = tiny_model()
    options = {"method": "custom", **TINY}
    Trainer(model, random_images(32), config, options, tmp_path, CPU, evaluate=lambda model: next(scores)).run()
    assert equal(weights(tmp_path), model.state_dict()), "half-life 0, the latest weights, is the best here"
    assert measured_fids(tmp_path)[0.2] == {"fid_nfe1": 16.0, "fid_nfe2": 3.0}
    saved = read_resume(tmp_path)
    export(tmp_path, saved, "0.5", tmp_path / "out")
    assert not equal(weights(tmp_path / "out"), weights(tmp_path))
    from custom_model import create_custom_model

    loaded = load_model(tmp_path / "out" / "last.ckpt", create_custom_model).state_dict()
    assert equal(loaded, weights(tmp_path / "out"))


def test_learning_rate_decays_to_zero():
    config = TrainingConfig(lr=1.0, lr_warmup=2, lr_decay=0.5, num_iterations=8)
    assert [learning_rate(step, config) for step in range(1, 9)] == pytest.approx([0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25])
