"""Learned time steps against a mixture of Gaussians whose flow is known."""

from functools import cache

import pytest
import torch

from src.methods.shared.solvers import ORDERS, grid_of_calls, solve
from tests.helpers import SHAPE, tiny_model
from tests.methods import battery
from tests.methods.oracles import Gaussian, Mixture
from tests.methods.oracles_solver import ExactTeacher, start, student

CLUSTERS = Mixture((-0.6, 0.5), (0.05, 0.1), (0.4, 0.6))
NARROW = Gaussian(0.3, 0.05)


def exact_student(data=CLUSTERS, **options):
    model = student("ld3", data, **{"nfe_list": [4], "teacher_steps": 30, **options})
    exact = ExactTeacher(data)
    model.predict = lambda xt, t: exact.denoised(xt, t)
    return model


def error(model, data=CLUSTERS, calls=4):
    """The root of the mean squared distance to the exact flow's ends, from noise that was not trained on."""
    noise = start((2000, 2), seed=99)
    with torch.no_grad():
        ends = model.solution(noise, calls)[-1]
    return (ends - data.flow(80 * noise, 1.0, 80.0)).square().mean().sqrt().item()


def uniform_error(data=CLUSTERS, solver="dpmpp"):
    noise = start((2000, 2), seed=99)
    ends = solve(ExactTeacher(data).denoised, 80 * noise, torch.linspace(80.0, 0.0, 5), ORDERS[solver])[-1]
    return (ends - data.flow(80 * noise, 1.0, 80.0)).square().mean().sqrt().item()


def train(model, steps=50, lr=2e-3, sign=1):
    """Steps of Adam; sign -1 climbs."""
    optimizer = torch.optim.Adam(model.optim_groups()["network"], lr, maximize=sign < 0)
    for step in range(steps):
        noise = start((64, 2), seed=1000 + step)
        optimizer.zero_grad()
        model.compute_loss(noise, noise).backward()
        optimizer.step()
    return model


@cache
def trained(**options):
    return train(exact_student(**options))


@pytest.mark.parametrize("solver", ["euler", "dpmpp"])
def test_it_finds_a_better_grid(solver):
    before, after = error(exact_student(solver=solver)), error(trained(solver=solver))
    assert after < before / 2 and after < uniform_error(solver=solver) / 3


def test_it_finds_a_grid_for_a_narrow_gaussian():
    model = exact_student(NARROW, decoupled=False)
    assert error(train(model, lr=4e-3), NARROW) < min(uniform_error(NARROW) / 3, error(exact_student(NARROW), NARROW) / 2)


def test_levels_told_to_the_network_help_further():
    assert error(trained(solver="euler")) < 0.9 * error(trained(solver="euler", decoupled=False))


def test_planted_faults_are_found():
    """A gradient of the wrong sign, and a grid that no gradient reaches."""
    before = error(exact_student())
    assert error(train(exact_student(), 10, sign=-1)) > before
    constant = exact_student()
    grid = constant.grid
    constant.grid = lambda calls: tuple(part.detach() for part in grid(calls))
    with pytest.raises(RuntimeError, match="does not require grad"):
        train(constant, 1)


def randomize(model, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.optim_groups()["network"]:
            parameter.copy_(scale / model.config.parameter_scale * torch.randn(len(parameter), generator=generator))
    return model


def test_grids_start_as_edms_and_always_fall():
    model = tiny_model("ld3", nfe_list=[2, 4, 10])
    for calls in (1, 2, 3, 4, 10):
        levels, asked = model.grid(calls)
        torch.testing.assert_close(levels, grid_of_calls(80.0, 0.002, calls, "cpu"), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(asked, levels[:-1])
    randomize(model, 4.0)
    for calls in (2, 4, 10):
        levels, asked = model.grid(calls)
        assert levels[0] == 80 and levels[-1] == 0 and (levels.diff() < 0).all() and len(asked) == calls
        assert not torch.allclose(levels, grid_of_calls(80.0, 0.002, calls, "cpu"), rtol=1e-2)
        assert ((asked / levels[:-1]).log().abs() > 1e-2).all() and (asked > 0).all()
    torch.testing.assert_close(model.grid(3)[0], grid_of_calls(80.0, 0.002, 3, "cpu"))


@pytest.mark.parametrize("options", [{}, {"solver": "euler", "decoupled": False}, {"distance": "l2"}])
def test_gradients_of_the_loss(options):
    """Against central differences, in every logit and shift, through the solver and its recomputed calls."""
    model = randomize(exact_student(**options)).double()
    noise = start((16, 2))
    model.compute_loss(noise, noise).backward()
    for parameter in model.optim_groups()["network"]:
        for index in range(len(parameter)):
            values = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter[index] += step
                    values.append(model.compute_loss(noise, noise).item())
                    parameter[index] -= step
            assert (values[0] - values[1]) / 2e-6 == pytest.approx(parameter.grad[index].item(), rel=1e-3, abs=1e-5)


def test_soft_loss_lets_the_noise_move():
    """It is below the hard loss, falls as r grows, and the noise moves by r at most."""
    noise, losses, moved = start((64, 2)), [], []
    for r in (0.0, 0.05, 0.2):
        model = exact_student(r=r)
        end = model.teacher_solution(noise)
        solution = model.solution
        model.solution = lambda here, *rest, solution=solution: (
            moved.append((here - noise).norm(dim=1)) or solution(here, *rest)
        )
        losses.append(model.losses(noise, end, 4).mean().item())
        assert moved[-1].max() <= r + 1e-9
    assert losses[2] < losses[1] < losses[0] and moved[-1].max() > 0.01
    assert len(moved) == 5  # one solution for the hard loss, two for each of the others


def test_a_step_of_the_noise_in_the_wrong_direction_is_found(monkeypatch):
    noise = start((64, 2))
    grad = torch.autograd.grad
    model = exact_student(r=0.05)
    end = model.teacher_solution(noise)
    hard = exact_student().losses(noise, end, 4).mean()
    assert model.losses(noise, end, 4).mean() < hard
    monkeypatch.setattr(torch.autograd, "grad", lambda *args: tuple(-g for g in grad(*args)))
    assert model.losses(noise, end, 4).mean() > hard


def test_only_time_steps_learn(tmp_path):
    """The network is the teacher's, without dropout, and is handed in as it was; the steps are handed in with it."""
    model = tiny_model("ld3", dropout=0.5, nfe_list=[2, 3])
    teacher = model.teacher.network.state_dict()
    battery.run_loop(model, tmp_path, steps=3)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    learned = {name: value for name, value in saved.items() if not name.startswith("network.")}
    assert set(learned) == {"gaps.2", "gaps.3", "shifts.2", "shifts.3"}
    assert all(value.abs().max() > 1e-4 for value in learned.values())
    assert all(torch.equal(saved[f"network.{name}"], value) for name, value in teacher.items())
    model.train()
    assert model.training and not any(module.training for module in model.network.modules())


def test_learned_steps_are_sampled_and_saved(tmp_path):
    before = tiny_model("ld3").sample((2, *SHAPE), 4, seeds=[1, 2])
    model = randomize(tiny_model("ld3"))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    loaded = tiny_model("ld3")
    loaded.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True))
    samples = model.sample((2, *SHAPE), 4, seeds=[1, 2])
    torch.testing.assert_close(loaded.sample((2, *SHAPE), 4, seeds=[1, 2]), samples, atol=0, rtol=0)
    assert (samples - before).abs().mean() > 1e-3


def test_the_teacher_has_to_be_of_the_same_kind():
    for teacher in (tiny_model("rectified_flow"), tiny_model("edm", sigma_data=0.3)):
        with pytest.raises(ValueError, match=r"needs one that predicts 'edm, sigma_data 0.5, time_scale 1'"):
            tiny_model("ld3").set_teacher(teacher)
