"""Shortcut models against closed forms, and the target network they learn from."""

import math

import pytest
import torch

from src.methods.shared.method import split_batch
from tests.helpers import SHAPE, tiny_model
from tests.methods import battery
from tests.methods import oracles_flow as oracle


def bootstrap_error(model, level):
    """The bootstrap target for steps of 2^-level against the exact average velocity."""
    d = torch.full((64,), 2.0**-level, dtype=torch.float64)
    t = (torch.arange(64) % 2**level) * d
    mean, std = oracle.moments(t, torch.empty(64, 2))
    xt = mean + std * torch.randn(64, 2, generator=torch.Generator().manual_seed(0)).double()
    return (model.bootstrap_target(xt, t, d) - oracle.average_velocity(xt, t, d)).abs().max().item()


def test_the_exact_shortcut_solves_the_bootstrap_identity():
    model = oracle.exact_model("shortcut")
    assert max(bootstrap_error(model, level) for level in range(6)) < 1e-10
    finest = bootstrap_error(model, 6)  # two Euler steps of 1/128 by the velocity
    assert 1e-6 < finest < 0.05


def test_a_second_half_step_from_the_wrong_place_is_found(monkeypatch):
    model = oracle.exact_model("shortcut")
    predict = model.predict
    monkeypatch.setattr(model, "predict", lambda x, t, d, network: -predict(x, t, d, network=network))
    assert bootstrap_error(model, 1) > 0.1


@pytest.mark.parametrize("finest", [8, 128])
def test_what_is_asked_of_the_networks(finest):
    """Steps are powers of two from places on their own grid; the finest half steps, and the rest of the batch, are d = 0."""
    model = oracle.exact_model("shortcut", bootstrap_share=0.5, finest_steps=finest)
    student, target = [], []
    model.network.forward = lambda x, t, d: student.append((t / 1000, d / 1000)) or x
    model.train_only["target"].forward = lambda x, t, d: target.append((t / 1000, d / 1000)) or x
    torch.manual_seed(0)
    model.compute_loss(*oracle.pairs(batch=512))
    [(t, d)], [(_, half), (middle, other_half)] = student, target
    assert (d == 0).sum() == 256
    t, d = t[d > 0], d[d > 0]
    torch.testing.assert_close(d.unique(), 2.0 ** torch.arange(1 - math.log2(finest), 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(t / d, (t / d).round(), atol=1e-3, rtol=0)
    assert (t + d <= 1 + 1e-6).all() and len((t / d).round().unique()) > finest / 8
    torch.testing.assert_close(half, torch.where(d < 2.5 / finest, 0.0, d / 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(middle, t + d / 2, atol=1e-6, rtol=0)
    assert torch.equal(half, other_half)


def test_steps_of_the_sampler():
    model = oracle.exact_model("shortcut")
    for steps, asked in ((1, 1.0), (2, 0.5), (64, 1 / 64), (128, 0.0)):
        seen = []
        model.network.forward = lambda x, t, d, seen=seen: seen.append(d / 1000) or x
        model.sample((1, 2), steps)
        assert len(seen) == steps
        torch.testing.assert_close(torch.cat(seen), torch.full((steps,), asked), atol=1e-6, rtol=0)


def test_targets_stay_in_bounds():
    model = oracle.exact_model("shortcut")
    model.train_only["target"].forward = lambda x, t, d: 1e3 * x.sign()
    target = model.bootstrap_target(torch.tensor([[1.0, -1.0]]), torch.zeros(1), torch.ones(1))
    assert target.tolist() == [[4.0, -4.0]]


def test_the_exact_shortcut_has_the_least_loss():
    for share in (0.0, 0.125, 1.0):
        model = oracle.exact_model("shortcut", bootstrap_share=share)
        below, least, above = oracle.shifted_losses(model, *oracle.pairs())
        assert least < below - 0.05 and least < above - 0.05
    assert least < 1e-4  # all of the batch on the identity


def test_the_target_carries_no_gradient_and_no_dropout():
    model = oracle.point_model("shortcut", dropout=0.5, bootstrap_share=1.0).train()
    target = model.train_only["target"]
    assert not target.training and not any(p.requires_grad for p in target.parameters())
    xt, t, _ = oracle.states()
    first, second = (model.bootstrap_target(xt, t, torch.full_like(t, 0.25)) for _ in range(2))
    assert not first.requires_grad and torch.equal(first, second)
    model.compute_loss(*oracle.pairs(batch=8)).backward()
    assert all(p.grad is not None for p in model.network.parameters()) and all(p.grad is None for p in target.parameters())


def test_the_target_follows_the_network_and_is_kept_for_training_only(tmp_path):
    model = tiny_model("shortcut", target_decay=0.5)
    expected = [p.detach().clone() for p in model.network.parameters()]  # step 1 begins with a copy of the network
    on_step_end = model.on_step_end

    def recording(step, total):
        on_step_end(step, total)
        for mean, parameter in zip(expected, model.network.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 0.5)

    model.on_step_end = recording
    battery.run_loop(model, tmp_path, steps=3)
    target = model.train_only["target"]
    torch.testing.assert_close(list(target.parameters()), expected, atol=1e-6, rtol=1e-6, check_stride=False)
    assert any(not torch.equal(mine, p) for mine, p in zip(target.parameters(), model.network.parameters(), strict=True))
    assert not any("target" in key for key in model.state_dict())
    assert not any("target" in key for key in torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])

    saved = torch.load(tmp_path / "resume.pt", weights_only=True)["train_only"]
    resumed = tiny_model("shortcut")
    for name, module in resumed.train_only.items():
        module.load_state_dict(saved[name])
    resumed.compute_loss(*(torch.randn(2, *SHAPE) for _ in range(2)), step=4)
    for mine, other in zip(resumed.train_only["target"].parameters(), target.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_the_target_moves_with_the_model():
    model = oracle.point_model("shortcut").to(torch.float16)
    assert {p.dtype for p in model.train_only["target"].parameters()} == {torch.float16}


def test_split_batch():
    torch.manual_seed(0)
    for size, share in ((32, 0.125), (8, 0.75), (5, 0.0), (5, 1.0)):
        chosen, rest = split_batch(size, share)
        assert len(chosen) == size * share and sorted([*chosen.tolist(), *rest.tolist()]) == list(range(size))
    counts = torch.tensor([len(split_batch(3, 0.25)[0]) for _ in range(4000)]).float()
    assert set(counts.tolist()) == {0.0, 1.0} and abs(counts.mean() - 0.75) < 0.03
