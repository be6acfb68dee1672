"""Checkpoints of the kit as priors: their score is exact where that of the data is, and adapters leave the weights alone."""

import copy
import gc

import pytest
import torch
from torch import nn

from src.common.cli import UserError
from src.common.distilled import METHODS
from src.methods import get_method
from src.score_distillation.checkpoint import Checkpoint
from src.score_distillation.command import LOSSES
from src.score_distillation.lora import add_lora
from src.utils import expand_t
from tests.helpers import SHAPE, tiny_model
from tests.methods.test_labels import CLASSES, labelled_model

NAMES = [f"class {number}" for number in range(CLASSES)]


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, *SHAPE)


def make_prior(method="ddpm", **options):
    return Checkpoint(labelled_model(method, **options), NAMES, SHAPE)


class Gaussian(nn.Module):
    """Instead of the network: what it would have learned of data from one Gaussian, whatever it is asked to predict."""

    def __init__(self, method, mean, std):
        super().__init__()
        self.method, self.mean, self.std, self.num_classes = method, mean, std, CLASSES
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, xt, time, labels=None):
        if self.method == "rectified_flow":
            t = expand_t(time / 1000, xt)
            signal, level = t, 1 - t
        else:
            alpha_bar = expand_t(self.scheduler.log_alpha_bar_at(time / 1000, time).exp(), xt)
            signal, level = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        gain = signal * self.std**2 / (signal**2 * self.std**2 + level**2)
        data = self.mean + gain * (xt - signal * self.mean)
        noise = (xt - signal * data) / level
        return data - noise if self.method == "rectified_flow" else noise


@pytest.mark.parametrize("method", ["ddpm", "rectified_flow"])
def test_the_noise_of_a_known_density(method, x):
    """Data of one Gaussian: noise(xt) = level (xt - signal mean) / (signal^2 std^2 + level^2) at every time of the schedule."""
    mean, std = 0.3, 0.5
    network = Gaussian(method, mean, std)
    model = get_method(method).from_options(network, **({"prediction": "epsilon"} if method == "ddpm" else {}))
    object.__setattr__(network, "scheduler", model.scheduler)
    prior = Checkpoint(model, NAMES, SHAPE)
    for time in (20, 200, 500, 900):
        t = torch.full((2,), time)
        signal, level = prior.signal_and_noise(t, x)
        expected = level * (x - signal * mean) / (signal**2 * std**2 + level**2)
        found = prior.predict_noise(x, t, prior.encode_condition(NAMES[0]), 1.0)
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)  # ddpm rounds times to its own 1000


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss_type", LOSSES)
def test_five_steps_of_each_loss(method, loss_type, x):
    prior = make_prior(method)
    before = copy.deepcopy(prior.model.state_dict())
    options = {"inversion_n_steps": 2, "sdi_update_interval": 2} if loss_type == "sdi" else {}
    loss = LOSSES[loss_type](prior, prior.encode_condition(NAMES[0]), LOSSES[loss_type].Config(**options))
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        gradient = loss.gradient(x, step, 5, generator)
        assert gradient.shape == x.shape and torch.isfinite(gradient).all() and gradient.abs().max() > 1e-3
    after = prior.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in prior.model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_adapters(method, x):
    """They share the weights, change nothing before they are trained, and get gradients alone."""
    prior, t = make_prior(method), torch.tensor([300, 800])
    condition = prior.encode_condition(NAMES[0])
    lora, parameters = prior.adapted(3)
    assert {id(value) for value in prior.model.parameters()} < {id(value) for value in lora.model.parameters()}
    assert 0 < sum(value.numel() for value in parameters) < 0.3 * sum(value.numel() for value in prior.model.parameters())
    expected = prior.predict_noise(x, t, condition)
    torch.testing.assert_close(lora.predict_noise(x, t, condition), expected)
    lora.predict_noise(x, t, condition).square().mean().backward()
    assert all(value.grad is not None for value in parameters) and any(value.grad.any() for value in parameters)
    assert all(value.grad is None for value in prior.model.parameters())
    with torch.no_grad():
        for value in parameters:
            value.add_(0.1)
    torch.testing.assert_close(prior.predict_noise(x, t, condition), expected)
    assert (lora.predict_noise(x, t, condition) - expected).abs().max() > 1e-3


def test_adapters_are_of_low_rank():
    layer = nn.Linear(8, 6)
    network = nn.Sequential(layer, nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 3))
    parameters = add_lora(network, 2)
    assert [tuple(value.shape) for value in parameters] == [(2, 8), (6, 2), (2, 4, 1, 1), (5, 2, 1, 1)]
    x = torch.randn(3, 8)
    nn.init.normal_(parameters[1])
    torch.testing.assert_close(network[0](x), layer(x) + x @ (parameters[1] @ parameters[0]).T)


def test_what_can_be_asked_for():
    prior = make_prior()
    named, unnamed = prior.encode_condition(NAMES[1], NAMES[4]), prior.encode_condition(NAMES[1])
    assert (named.positive.tolist(), named.negative.tolist(), unnamed.negative.tolist()) == ([2], [5], [0])
    with pytest.raises(UserError, match="knows no classes: give one that was trained with --class_conditional"):
        Checkpoint(tiny_model("ddpm"), [], SHAPE)
    with pytest.raises(
        UserError, match="cannot be distilled: MeanFlow gives no denoised data; ddpm, edm and rectified_flow can"
    ):
        make_prior("meanflow")
    with pytest.raises(UserError, match=r"--class clas 1: no such class; expected one of class 0, .*; did you mean class 1"):
        prior.encode_condition("clas 1")


def memory_of_tensors() -> int:
    gc.collect()
    found = {id(item): item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)}
    return sum(item.numel() * item.element_size() for item in found.values())


def test_memory_does_not_grow(x):
    prior = make_prior()
    loss = LOSSES["vsd"](prior, prior.encode_condition(NAMES[0]), LOSSES["vsd"].Config())
    generator, held = torch.Generator().manual_seed(0), []
    for step in range(1, 16):
        loss.gradient(x, step, 15, generator)
        held += [memory_of_tensors()] if step in (5, 15) else []
    assert held[1] <= held[0]
