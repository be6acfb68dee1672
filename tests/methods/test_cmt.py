"""Consistency mid-training against the exact consistency function of a Gaussian."""

import sys
from types import SimpleNamespace

import pytest
import torch

from tests.helpers import SHAPE, tiny_model
from tests.methods.oracles import GAUSSIAN
from tests.methods.oracles_solver import PerceptualStub, start, student


def exact_student(faulty=False, **options):
    """One whose function is exact, or the flow's inverse."""
    model = student("cmt", **options)

    def predict(xt, t):
        t = t.reshape(-1, *[1] * (xt.ndim - 1))
        ends = (1.0, 0.0, 1.0, t) if faulty else (1.0, t, 1.0, 0.0)
        return GAUSSIAN.flow(xt, *ends)

    model.predict = predict
    return model


def loss(batch=64, **options):
    torch.manual_seed(0)
    return exact_student(**options).compute_loss(torch.zeros(batch, 2), start((batch, 2))).item()


@pytest.mark.parametrize("solver, order", [("euler", 1), ("dpmpp", 2)])
def test_the_exact_function_is_a_zero_of_the_loss_as_steps_grow(solver, order):
    options = {"solver": solver, "points": 4, "distance": "huber"}
    coarse, fine = (loss(nfe=nfe, **options) for nfe in (32, 128))
    assert fine < coarse / 4**order * 1.6 and fine < 0.02
    assert loss(nfe=128, faulty=True, **options) > 0.3, "a wrong function is one too"


def test_a_teacher_of_the_wrong_sign_is_found():
    assert loss(nfe=64) < 0.01 and loss(nfe=64, sign=-1) > 1


def test_points_lie_on_the_teachers_trajectories():
    """Contiguous rows share a trajectory, from its owner's noise; with points = nfe every level comes once."""
    model, noise = student("cmt", nfe=8, points=8), start((24, 2))
    torch.manual_seed(0)
    xt, t, end, _ = model.trajectory_points(noise)
    for group in torch.arange(24).split(8):
        assert len(t[group].unique()) == 8 and t[group].max() == 80
        assert (end[group] == end[group[0]]).all()
        top = group[t[group] == 80]
        assert (noise[group] * 80 == xt[top]).all(dim=1).any()
    assert len(end.unique(dim=0)) == 3
    expected = GAUSSIAN.flow(xt, 1.0, t[:, None])
    assert (expected - end).abs().max() < 0.2  # eight steps


def test_levels_are_spread_evenly_and_all_are_met():
    model, seen = student("cmt", nfe=16, points=4), []
    for seed in range(40):
        torch.manual_seed(seed)
        _, t, _, _ = model.trajectory_points(start((8, 2)))
        order = t.unique(sorted=True)
        assert len(t[:4].unique()) == len(t[4:].unique()) == 4
        seen.append(order)
    assert len(torch.cat(seen).unique()) == 16


@pytest.mark.parametrize("batch, trajectories", [(32, 2), (24, 3), (8, 1), (7, 7), (1, 1)])
def test_what_the_teacher_is_asked(batch, trajectories):
    model, asked = student("cmt"), []
    denoised = model.teacher.denoised
    model.teacher.denoised = lambda x, sigma: asked.append(x.shape[0]) or denoised(x, sigma)
    xt, t, end, _ = model.trajectory_points(start((batch, 2)))
    assert asked == [trajectories] * 16 and len(xt) == len(t) == len(end) == batch


def test_edm_weighting_counts_errors_of_the_network():
    """An error of c_out(sigma) at every level has the loss 1."""
    model = student("cmt", distance="l2", weighting="edm", points=1)
    points = model.trajectory_points
    torch.manual_seed(0)
    xt, t, end, _ = points(start((16, 2)))
    model.trajectory_points = lambda noise, labels: (xt, t, end, labels)
    model.predict = lambda xt, t: end + (0.5 * t / (t**2 + 0.25).sqrt())[:, None]
    assert model.compute_loss(xt, xt).item() == pytest.approx(1, rel=1e-4)


def test_it_starts_from_the_teacher_and_goes_on_as_a_consistency_model():
    model, after = tiny_model("cmt"), tiny_model("consistency")
    assert model.parameterization == tiny_model("edm").parameterization == after.parameterization
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(1.1)
    after.network.load_state_dict(model.network.state_dict())
    x, t = torch.randn(3, *SHAPE), torch.tensor([80.0, 1.0, 0.1])
    torch.testing.assert_close(after.predict(x, t), model.predict(x, t))


def test_lpips(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match="pip install lpips"):
        tiny_model("cmt", distance="lpips")
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=PerceptualStub))
    model = tiny_model("cmt", distance="lpips")
    images = torch.randn(2, 3, 64, 64)
    model.compute_loss(images, images).backward()
    assert all(p.grad is not None for p in model.network.parameters())
    assert model.train_only["lpips"].weight.grad is None and not any("lpips" in key for key in model.state_dict())
