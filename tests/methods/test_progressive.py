"""Progressive distillation against the exact DDIM steps of a teacher that knows a Gaussian N(MEAN, STD^2)."""

import json
import math

import pytest
import torch

import train
from custom_model import create_custom_model
from src.challenges.toy2d import ToyMLP
from src.common.checkpoints import load_model
from src.methods import get_method
from src.methods.progressive import SIGMA_MAX, TAG
from src.training.config import TrainingConfig
from src.training.loop import Trainer
from src.utils import expand_t
from tests.helpers import FACES_FLAGS, SHAPE, TINY, call, fails, random_images, tiny_model
from tests.methods.battery import run_loop
from tests.methods.oracles import GAUSSIAN

CPU = torch.device("cpu")
TOON = [*FACES_FLAGS, "--challenge", "toon", "--batch_size", 4, "--num_iterations", 0]


@pytest.fixture
def no_pictures(monkeypatch):
    """Runs without previews and curves, which take most of the time of a short one."""
    monkeypatch.setattr("src.training.writing.draw_curves", lambda *args: None)


def exact_teacher(scale=1.0):
    """Any model with denoised data may teach; a scale other than 1 plants a fault."""
    teacher = get_method("edm").from_options(torch.nn.Linear(1, 1))
    teacher.predict = lambda x, sigma: scale * GAUSSIAN.posterior_mean(x, 1.0, expand_t(sigma, x)).to(x.dtype)
    return teacher


def student(network=None, scale=1.0, **options):
    model = get_method("progressive").from_options(network or torch.nn.Linear(1, 1), **options)
    model.set_teacher(exact_teacher(scale))
    return model


def euler(x, sigma, sigma_next):
    """A DDIM step of the exact teacher in the coordinates x = data + sigma noise, by the closed form of its flow."""
    denoised = GAUSSIAN.posterior_mean(x, 1.0, sigma)
    return x + (sigma_next - sigma) * (x - denoised) / sigma


def grid(model, steps):
    """alpha and sigma at the times of a grid of `steps` steps, from data to noise: (steps + 1,) each, float64."""
    log = model.scheduler.log_alpha_bar.double()[(torch.arange(steps + 1) * 1000 / steps + 0.5).floor().long()]
    return (log / 2).exp(), (-log.expm1()).sqrt()


# ----------------------------------------------------------------------------------------------- the target


def landing_errors(model, steps):
    """How far a student step with the target as its data is from two exact steps of half its length, at each time."""
    alpha, sigma = grid(model, 2 * steps)
    noise = torch.randn(steps, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    index = torch.arange(1, steps + 1)
    at = lambda values, shift: expand_t(values[2 * index - shift], noise)  # noqa: E731
    xt = at(alpha, 0) * MEAN_DATA + at(sigma, 0) * noise
    x = euler(xt / at(alpha, 0), at(sigma, 0) / at(alpha, 0), at(sigma, 1) / at(alpha, 1))
    x = euler(x, at(sigma, 1) / at(alpha, 1), at(sigma, 2) / at(alpha, 2))
    target = model.target(xt, index, torch.full((steps,), steps))
    landed = at(alpha, 2) * target + at(sigma, 2) / at(sigma, 0) * (xt - at(alpha, 0) * target)
    return (landed - at(alpha, 2) * x).abs().flatten(1).amax(dim=1)


MEAN_DATA = 0.35


@pytest.mark.parametrize("steps", [1, 2, 4, 16])
@pytest.mark.parametrize("options", [{}, {"prediction": "x0"}, {"schedule": "linear"}])
def test_one_step_to_the_target_lands_where_two_teacher_steps_land(steps, options):
    errors = landing_errors(student(**options), steps)
    assert errors[:-1].max() < 1e-5 if steps > 1 else True
    assert errors[-1] < 0.01, "the step from t = 1, where the teacher is asked at its highest level"


@pytest.mark.parametrize("fault", ["sign", "middle", "teacher"])
def test_a_fault_in_the_target_is_found(fault):
    model = student(scale=0.9 if fault == "teacher" else 1.0)
    ddim, grid_time = model.ddim, model.grid_time
    if fault == "sign":
        model.ddim = lambda xt, data, t, t_next: ddim(xt, data, t, t_next) * 2 - ddim(xt, -data, t, t_next)
    if fault == "middle":
        model.grid_time = lambda index, steps: grid_time(index + (index % 2) // 2 + (index % 2), steps)
    assert landing_errors(model, 4).max() > 0.05


def exact_student(model):
    """Let the model predict, without learning, the target of its own grid."""

    def predict(xt, t, steps, **kwargs):
        index = (t * steps).round().long()
        a, s = model.scheduler.signal_and_noise(t, xt)
        return (a * xt - model.target(xt, index, steps)) / s  # as v

    model.predict = predict
    return model


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_the_exact_student_samples_what_its_teacher_samples_in_twice_the_steps(steps):
    model = exact_student(student())
    seeds = [1, 2, 3]
    noise = model.sample((3, *SHAPE), steps, return_traj=True, seeds=seeds)[0].double()
    alpha, sigma = grid(model, 2 * steps)
    levels = sigma / alpha
    x = noise * levels[-1]
    for i in range(2 * steps, 0, -1):
        x = euler(x, levels[i], levels[i - 1])
    torch.testing.assert_close(model.sample((3, *SHAPE), steps, seeds=seeds).double(), x, atol=0.01, rtol=0)
    wrong = exact_student(student(scale=0.8)).sample((3, *SHAPE), steps, seeds=seeds)
    assert (wrong - x).abs().mean() > 0.03


@pytest.mark.parametrize("weighting", ["truncated_snr", "snr_plus_1"])
def test_loss_is_zero_at_the_target_and_weighs_by_the_signal_to_noise_ratio(weighting):
    model = exact_student(student(start_steps=16, weighting=weighting))
    exact, seen = model.predict, []
    data, noise = torch.randn(64, *SHAPE), torch.randn(64, *SHAPE)

    def loss(shift):
        def predict(xt, t, steps, **kwargs):
            seen.append(t)
            return exact(xt, t, steps) - shift / model.scheduler.signal_and_noise(t, xt)[1]

        model.predict = predict
        torch.manual_seed(0)
        return model.compute_loss(data, noise, step=1, total_steps=10).item()

    assert loss(0.0) < 1e-8
    got = loss(0.1)
    alpha, sigma = grid(model, 8)
    snr = (alpha / sigma)[(seen[-1] * 8).round().long()].square()
    weight = snr.clamp(min=1) if weighting == "truncated_snr" else snr + 1
    assert got == pytest.approx(0.01 * weight.mean().item(), rel=1e-3)
    assert len(seen[-1].unique()) == 8 and weight.max() > 5 * weight.min()


def test_noise_beyond_the_teachers_levels_is_scaled_to_its_highest():
    model, asked = student(), []
    model.teacher.predict = lambda x, sigma: asked.append((x.std().item(), sigma.max().item())) or x
    model.teacher_data(torch.randn(4, *SHAPE), torch.ones(4), torch.full((4,), 2))
    assert asked[0][1] == SIGMA_MAX and asked[0][0] == pytest.approx(SIGMA_MAX, rel=0.1)


# ----------------------------------------------------------------------------- one network for 4, 2 and 1 steps


def test_each_served_number_of_steps_has_times_of_its_own():
    model = tiny_model("progressive")
    forward, seen = model.network.forward, {}
    for steps in (8, 4, 2, 1):
        times = seen.setdefault(steps, [])
        model.network.forward = lambda x, t, times=times: times.append(t[0].item()) or forward(x, t)
        model.sample((1, *SHAPE), steps)
    assert seen[4] == pytest.approx([1000, 750, 500, 250]) and seen[8][0] == 1000
    assert seen[2] == pytest.approx([1000 - TAG, 500 - TAG]) and seen[1] == pytest.approx([1000 - 2 * TAG])


def test_the_last_rounds_repeat_what_their_teacher_knows():
    model = tiny_model("progressive", start_steps=16, repeat_share=0.5)
    asked = []
    for name in ("teacher_data", "target"):
        method = getattr(model, name)
        setattr(model, name, lambda *args, name=name, method=method: asked.append((name, args[-1].unique())) or method(*args))
    data, noise = torch.randn(16, *SHAPE), torch.randn(16, *SHAPE)
    found = []
    for done in range(4):
        model.train_only["rounds"].done = done
        asked.clear()
        torch.manual_seed(0)
        model.compute_loss(data, noise)
        found.append([(name, steps.tolist()) for name, steps in asked])
    assert found[0] == [("target", [8]), ("teacher_data", [16]), ("teacher_data", [16])]
    assert found[1] == [("target", [4]), ("teacher_data", [8]), ("teacher_data", [8])]
    assert found[2] == [("teacher_data", [4]), ("target", [2]), ("teacher_data", [4]), ("teacher_data", [4])]
    assert found[3] == [("teacher_data", [2, 4]), ("target", [1]), ("teacher_data", [2]), ("teacher_data", [2])]


def distances(serve_steps, iterations=240):
    """A small network for points after some training: how far its 4, 2 and 1 steps end from the teacher's 8."""
    torch.manual_seed(0)
    model = student(ToyMLP((32, 32)), start_steps=8, serve_steps=serve_steps)
    optimizer = torch.optim.Adam(model.parameters())
    data = GAUSSIAN.data((256, 2)).float()
    for step in range(1, iterations + 1):
        torch.manual_seed(step)
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / iterations)
        optimizer.zero_grad()
        model.compute_loss(data, torch.randn(256, 2), step=step, total_steps=iterations).backward()
        optimizer.step()
        model.on_step_end(step, iterations)
    alpha, sigma = grid(model, 8)
    levels = sigma / alpha
    x = model.sample((256, 2), 1, return_traj=True, seeds=range(256))[0].double() * levels[-1]
    for i in range(8, 0, -1):
        x = euler(x, levels[i], levels[i - 1])
    ends = {steps: model.sample((256, 2), steps, seeds=range(256)) for steps in (4, 2, 1)}
    return {steps: (end - x).square().mean().sqrt().item() for steps, end in ends.items()}


def test_one_network_learns_all_three_numbers_of_steps():
    served, single = distances(4), distances(1)
    assert max(served.values()) < 0.03, served
    assert single[1] < 0.03 and min(single[4], single[2]) > 0.08, "without shifts, its last round loses nothing"


# ------------------------------------------------------------------------------------------------- rounds in a run


def test_rounds_share_the_iterations():
    model = tiny_model("progressive", start_steps=32, last_rounds=2.0)
    assert model.round_ends(700) == {16: 100, 8: 200, 4: 300, 2: 500, 1: 700}
    assert model.milestones(700) == {300: "nfe4", 500: "nfe2", 700: "nfe1"}
    assert tiny_model("progressive", start_steps=2).round_ends(50) == {1: 50}


def test_the_average_of_a_round_teaches_the_next():
    model = tiny_model("progressive", start_steps=8, last_rounds=1.0)
    rounds, history = model.train_only["rounds"], []
    before = rounds.teacher.head.weight.clone()
    for step in range(1, 13):
        with torch.no_grad():
            model.network.head.weight += 1.0
        history.append(model.network.head.weight.clone())
        model.on_step_end(step, 12)
        assert rounds.done == min(step // 4, 2)
        if step < 4:
            assert torch.equal(rounds.teacher.head.weight, before)
    expected = history[4]
    for age, weights in enumerate(history[5:8], start=2):
        keep = 0.5 ** (1 / (0.05 * age))
        expected = keep * expected + (1 - keep) * weights
    torch.testing.assert_close(rounds.teacher.head.weight, expected, atol=1e-4, rtol=1e-4)
    assert not rounds.teacher.training and not any(p.requires_grad for p in rounds.parameters())


def test_a_longer_continuation_repeats_no_round():
    model = tiny_model("progressive", start_steps=8, last_rounds=1.0)
    for step in range(1, 9):
        model.on_step_end(step, 8)
    assert model.train_only["rounds"].done == 2
    model.on_step_end(9, 24)
    assert model.train_only["rounds"].done == 2


def test_resumed_in_the_middle_of_a_round_and_milestones(tmp_path, no_pictures):
    """Rounds of 3, 3 and 3 steps; the run that was stopped after step 4 ends as the one that was not."""
    make = lambda: tiny_model("progressive", start_steps=8, last_rounds=1.0)  # noqa: E731
    run_loop(make(), tmp_path / "whole", steps=9)
    options = {"method": "progressive", **TINY, "start_steps": 8, "last_rounds": 1.0}
    settings = {"batch_size": 8, "num_iterations": 9, "lr": 1e-2, "lr_warmup": 0, "log_interval": 2, "save_interval": 4}

    class Stopped(Exception):
        pass

    class Stopping(Trainer):
        def save(self, *args, **kwargs):
            super().save(*args, **kwargs)
            raise Stopped

    arguments = (random_images(32), TrainingConfig(**settings), options, tmp_path / "parts", CPU)
    with pytest.raises(Stopped):
        Stopping(make(), *arguments).run()
    assert not (tmp_path / "parts" / "nfe2.ckpt").exists()
    Trainer(make(), *arguments).run(resume=True)
    for name in ("nfe4", "nfe2", "nfe1", "last"):
        whole, parts = (torch.load(tmp_path / run / f"{name}.ckpt", weights_only=True) for run in ("whole", "parts"))
        assert all(torch.equal(value, parts["state_dict"][key]) for key, value in whole["state_dict"].items()), name
    nfe1 = torch.load(tmp_path / "parts" / "nfe1.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, nfe1[key]) for key, value in parts["state_dict"].items()), "averaged, as last.ckpt is"
    nfe4 = load_model(tmp_path / "parts" / "nfe4.ckpt", create_custom_model).eval()
    assert torch.isfinite(nfe4.sample((2, *SHAPE), 4)).all()
    assert not torch.equal(nfe4.network.head.weight, parts["state_dict"]["network.head.weight"])


# ---------------------------------------------------------------------------------------------------- through train.py


def test_teachers_that_cannot_teach(toon, tmp_path, monkeypatch, capsys, no_pictures):
    flags = [*TOON, "--save_dir", tmp_path]
    assert call(train, monkeypatch, *flags, "--method", "shortcut", "--run_name", "shortcut") == 0
    assert call(train, monkeypatch, *flags, "--method", "edm", "--run_name", "small") == 0
    given = json.loads((tmp_path / "small" / "training_config.json").read_text())
    (tmp_path / "small" / "training_config.json").write_text(json.dumps({**given, "image_shape": [3, 32, 32]}))
    capsys.readouterr()

    def line(*teacher):
        return fails(train, monkeypatch, capsys, *flags, "--method", "progressive", "--run_name", "p", *teacher)

    assert "learns from a teacher: name its run with --teacher" in line()
    assert "no checkpoint at" in line("--teacher", tmp_path / "absent")
    assert "method Shortcut cannot teach: its flow has no solver" in line("--teacher", tmp_path / "shortcut")
    assert "was trained on images of shape (3, 32, 32); here they are (3, 64, 64)" in line("--teacher", tmp_path / "small")
    assert "power of 2 of at least 2, got 12" in line("--teacher", tmp_path / "small", "--start_steps", 12)


def test_a_ddpm_run_is_where_it_starts():
    for options in ({}, {"prediction": "x0"}, {"schedule": "linear", "time_scale": 10.0}):
        assert tiny_model("progressive", **options).parameterization == tiny_model("ddpm", **options).parameterization
    assert math.isclose(TAG * math.log2(4), 4)
