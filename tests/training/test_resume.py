"""Runs that are killed, stopped or damaged, and what is left of them."""

import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time

import pytest
import torch

from src.common.checkpoints import load_model
from src.common.cli import Interrupted, UserError
from src.common.files import PROJECT_ROOT
from src.common.processes import Processes
from src.runs.folder import Run
from src.runs.scores import scores_by_average
from src.training import clock as clock_file
from src.training import loop, report, saving
from src.training.config import TrainingConfig, learning_rate
from src.training.ema import export
from src.training.loop import Trainer
from src.training.resume import read_resume
from src.training.saving import Saver
from tests.helpers import TINY, random_images, tiny_model
from tests.methods.battery import run_loop
from tests.processes import Python

CPU = torch.device("cpu")
STEPS = 120


def weights(folder, name="last.ckpt"):
    return torch.load(folder / name, weights_only=True)["state_dict"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def run(folder, resume: bool, steps: int) -> bool:
    """A run that saves at every other step."""
    config = TrainingConfig(
        batch_size=4, num_iterations=steps, lr=1e-3, lr_warmup=5, log_interval=3, save_interval=2, memory_format="contiguous"
    )
    options = {"method": "custom", **TINY, "dropout": 0.1}
    return Trainer(tiny_model(dropout=0.1), random_images(32), config, options, folder, CPU).run(resume)


def life(folder, resume: bool) -> None:
    """A run in a process of its own, which draws nothing, so that many kills hit the writing of a checkpoint."""
    torch.set_num_threads(1)
    saving.draw_curves = lambda *args: None
    run(folder, resume, STEPS)


def assert_whole(folder) -> None:
    """What has a name can be read; hidden files are unfinished ones."""
    for path in folder.glob("*.*"):
        if path.suffix in (".ckpt", ".pt"):
            torch.load(path, weights_only=True)
        elif path.suffix == ".json":
            json.loads(path.read_text())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run of eight steps."""
    run(folder := tmp_path_factory.mktemp("whole"), False, 8)
    return folder


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.training import test_resume

folder, name, moment = sys.argv[1:]
replace, count = os.replace, 0

def killing(source, target):
    global count
    count += (now := Path(target).name == name)
    if now and count == 2 and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if now and count == 2 and moment == "after":
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = killing
test_resume.run(Path(folder), False, 8)
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", ["resume.pt", "last.ckpt"])
def test_killed_where_a_file_takes_its_place_and_resumed_is_the_uninterrupted_run(name, moment, uninterrupted, tmp_path):
    """Of the second save, at step 4: one of its two files is new, and the other not yet; or none, or both."""
    code, _, errors = Python(PROJECT_ROOT, "-c", KILLED, tmp_path, name, moment).ended()
    assert code == -signal.SIGKILL, errors
    assert_whole(tmp_path)
    assert read_resume(tmp_path)["step"] in (2, 4)
    run(tmp_path, True, 8)
    assert equal(weights(uninterrupted), weights(tmp_path))
    assert equal(read_resume(uninterrupted)["model"], read_resume(tmp_path)["model"])
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.slow
def test_killed_twenty_times_and_resumed_is_the_uninterrupted_run(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.test_resume", "torch._dynamo"])  # what every life would import
    whole = context.Process(target=life, args=(tmp_path / "whole", False))
    whole.start()
    whole.join()
    assert whole.exitcode == 0

    folder, rng, kills = tmp_path / "killed", random.Random(0), 0
    while kills < 20:
        process = context.Process(target=life, args=(folder, Run(folder).can_resume))
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
        assert_whole(folder)
    assert kills == 20, "the run was over before it was killed often enough"
    process = context.Process(target=life, args=(folder, True))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert equal(weights(tmp_path / "whole"), weights(folder))
    assert equal(read_resume(tmp_path / "whole")["model"], read_resume(folder)["model"])
    assert not list(folder.glob(".*.partial"))


def _last_save(folder) -> int:
    """When last.ckpt was written, which is replaced in one step; 0 while there is nothing to continue from."""
    return (folder / "last.ckpt").stat().st_mtime_ns if Run(folder).can_resume else 0


def test_sigterm_saves_and_stops(tmp_path):
    model = tiny_model()
    model.on_step_end = lambda step, total: os.kill(os.getpid(), signal.SIGTERM) if step == 5 else None
    config = TrainingConfig(batch_size=8, num_iterations=100)
    assert Trainer(model, random_images(32), config, {}, tmp_path, CPU).run() is False
    assert read_resume(tmp_path)["step"] == 5 and (tmp_path / "last.ckpt").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "the handler is gone after the run"


@pytest.mark.parametrize("at", ["the scores", "the preview"])
def test_a_signal_after_the_last_step_says_how_to_go_on(at, tmp_path, monkeypatch, capsys):
    def interrupt(*args):
        raise Interrupted(signal.SIGUSR1)

    config = TrainingConfig(batch_size=8, num_iterations=3, memory_format="contiguous")
    evaluate = interrupt if at == "the scores" else None
    if not evaluate:
        monkeypatch.setattr(Saver, "save_preview", interrupt)
    trainer = Trainer(tiny_model(), random_images(32), config, {}, tmp_path, CPU, evaluate=evaluate)
    assert trainer.run() is False and trainer.stopped_by == signal.SIGUSR1
    assert f"everything saved: continue it with --resume {tmp_path}" in capsys.readouterr().out
    assert read_resume(tmp_path)["step"] == 3 and weights(tmp_path)


@pytest.mark.parametrize("lost", ["deleted", "a file", "full"])
def test_a_lost_folder_loses_no_step(lost, tmp_path, monkeypatch):
    """What was trained is saved in the folder made anew, or in a temporary one; and the run goes on from there."""
    folder, spare = tmp_path / "run", tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    model, save = tiny_model(), torch.save

    def lose(step, total):
        if step == 6 and lost == "full":
            monkeypatch.setattr(torch, "save", full)
        elif step == 6:
            shutil.rmtree(folder)
            if lost == "a file":
                folder.touch()

    def full(value, path):
        if folder in path.parents:
            raise RuntimeError("unexpected pos 64 vs 0")
        save(value, path)

    model.on_step_end = lose
    options = {"method": "custom", **TINY}
    settings = {"batch_size": 8, "log_interval": 2, "save_interval": 2, "memory_format": "contiguous"}
    config = TrainingConfig(num_iterations=8, **settings)
    with pytest.raises(UserError, match=r"cannot write .*everything up to step 6 is saved") as caught:
        Trainer(model, random_images(32), config, options, folder, CPU).run()
    saved = folder if lost == "deleted" else next(spare.iterdir())
    assert str(caught.value).endswith(f"continue with --resume {saved}")
    assert len(list(spare.iterdir())) == (lost != "deleted")
    if lost == "full":
        assert {path.name for path in folder.iterdir()} >= {"last.ckpt", "resume.pt"}, "the ones before"
        monkeypatch.setattr(torch, "save", save)
    Trainer(tiny_model(), random_images(32), config, options, saved, CPU).run(resume=True)
    Trainer(tiny_model(), random_images(32), config, options, tmp_path / "whole", CPU).run()
    assert equal(weights(tmp_path / "whole"), weights(saved))
    assert [row["step"] for row in Run(saved).log()] == [2, 4, 6, 8]


def test_a_folder_left_by_a_killed_sampling_stops_no_resume(tmp_path):
    run_loop(tiny_model(), tmp_path, steps=2)
    (tmp_path / ".nfe=1.4711.partial").mkdir()
    (tmp_path / ".nfe=1.4711.partial" / "0000.png").touch()
    run_loop(tiny_model(), tmp_path, steps=4, resume=True)
    assert read_resume(tmp_path)["step"] == 4 and not list(tmp_path.glob(".*"))


def test_several_processes_ask_each_other_every_few_seconds(tmp_path, clock):
    """After a first step that tells how long one takes; a signal to any of them stops all."""

    asked = []

    class Two(Processes):
        def sum(self, tensors):
            for tensor in tensors:
                tensor *= 2
                if tensor.numel() == 2 and tensor.dtype == torch.float64:
                    asked.append((trainer.state.step, tensor[0].item()))

    settings = {"batch_size": 8, "num_iterations": 14, "log_interval": 100, "save_interval": 100}
    trainer = Trainer(tiny_model(), random_images(32), TrainingConfig(**settings), {}, tmp_path, CPU, processes=Two(0, 2))
    trainer.model.on_step_end = lambda step, total: os.kill(os.getpid(), signal.SIGUSR1) if step == 8 else None
    trainer.processes.first_says = lambda value: value
    trainer.processes.wait = lambda: None
    assert trainer.run() is False and trainer.stopped_by == signal.SIGUSR1
    assert asked == [(1, 0), (6, 0), (11, 2)]


class Clock:
    """Stands in for the module time; what is patched takes a number of seconds on it, and no time else passes."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.monotonic = self.perf_counter = lambda: self.now
        self.patch = monkeypatch.setattr
        for module in (loop, report, clock_file):
            self.patch(module, "time", self)

    def slow_down(self, owner, name: str, seconds: float) -> None:
        function = getattr(owner, name)

        def slow(*args, **kwargs):
            self.now += seconds
            return function(*args, **kwargs)

        self.patch(owner, name, slow)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """On which a step takes 1 second, a save 2 and a preview 4."""
    clock = Clock(monkeypatch)
    clock.slow_down(Trainer, "training_step", 1)
    clock.slow_down(Saver, "save_model", 2)
    clock.slow_down(Saver, "save_preview", 4)
    return clock


class SlowEvaluation:
    """An evaluation of 10 seconds, which gives these FIDs one after the other and keeps them in `given`."""

    def __init__(self, clock: Clock, fids):
        self.clock, self.fids, self.given = clock, iter(fids), []

    def __call__(self, model) -> dict[str, float]:
        self.clock.now += 10
        self.given.append(next(self.fids))
        return {"fid_nfe1": self.given[-1]}


@pytest.mark.parametrize(
    ("intervals", "seconds", "steps", "ended"),
    [
        ({}, 20, 17, 19),  # a save was never timed: it stops as soon as two steps and the guess for a save may not fit
        ({"save_interval": 5}, 20, 10, 18),  # step 5 saves and draws a preview in 6 seconds; at step 10 there is no time for it
        ({}, 35, 32, 34),  # the early preview of step 32 is left out
        ({"eval_interval": 5}, 40, 15, 37),  # steps 5 and 10 measure, 10 seconds each; at step 15 there is no time for it
    ],
)
def test_max_minutes_stops_in_time_with_everything_saved(tmp_path, clock, intervals, seconds, steps, ended):
    settings = {"batch_size": 8, "num_iterations": 10**6, "log_interval": 2, "save_interval": 10**6, **intervals}
    config, evaluate = TrainingConfig(**settings), SlowEvaluation(clock, itertools.repeat(1.0))
    trainer = Trainer(tiny_model(), random_images(32), config, {}, tmp_path, CPU, evaluate=evaluate, deadline=seconds)
    assert trainer.run() is False
    assert (read_resume(tmp_path)["step"], clock.now) == (steps, ended) and clock.now <= seconds
    assert weights(tmp_path) and (tmp_path / "training_curves.png").exists()


def test_the_choice_among_averages_is_taken_up_where_it_was_left(tmp_path, clock):
    """The steps are saved before the last FIDs; a run that is continued measures what is missing alone."""
    settings = {"batch_size": 8, "num_iterations": 6, "lr": 1e-2, "lr_warmup": 0, "ema_half_lives": [0.5, 0.0, 0.2]}
    config = TrainingConfig(**settings, eval_interval=3, save_interval=10**6, memory_format="contiguous")
    evaluate = SlowEvaluation(clock, [5.0, 9.0, 4.0, 16.0])  # at step 3, and of each average at the end

    def trainer(seconds: float) -> Trainer:
        arguments = (random_images(32), config, {"method": "custom", **TINY}, tmp_path, CPU)
        return Trainer(tiny_model(), *arguments, evaluate=evaluate, deadline=clock.now + seconds)

    assert trainer(35).run() is False
    assert evaluate.given == [5.0, 9.0] and clock.now == 6 + 2 + 2 * 10
    saved = read_resume(tmp_path)
    assert saved["step"] == 6 and equal(weights(tmp_path), {**saved["model"], **saved["ema"]["0.5"]})
    assert trainer(1000).run(resume=True) is True
    assert evaluate.given == [5.0, 9.0, 4.0, 16.0]
    assert equal(weights(tmp_path), saved["model"]), "half-life 0 is the best"
    assert trainer(1000).run(resume=True) is True and len(evaluate.given) == 4, "all is measured"


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
    assert scores_by_average(Run(tmp_path))[0.2] == {"fid_nfe1": 16.0, "fid_nfe2": 3.0}
    saved = read_resume(tmp_path)
    export(tmp_path, saved, "0.5", tmp_path / "out")
    assert not equal(weights(tmp_path / "out"), weights(tmp_path))
    from custom_model import create_custom_model

    loaded = load_model(tmp_path / "out" / "last.ckpt", create_custom_model).state_dict()
    assert equal(loaded, weights(tmp_path / "out"))


def test_learning_rate_decays_to_zero():
    config = TrainingConfig(lr=1.0, lr_warmup=2, lr_decay=0.5, num_iterations=8)
    assert [learning_rate(step, config) for step in range(1, 9)] == pytest.approx([0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25])
