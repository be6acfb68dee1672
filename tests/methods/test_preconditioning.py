"""A network that gives the straight path's velocity, as a denoiser: a rectified flow's weights are at home in every student."""

import pytest
import torch

from src.methods import METHODS
from src.methods.shared.karras_path import Denoiser
from src.utils import expand_t
from tests.helpers import SHAPE, tiny_model

SIGMA = torch.tensor([0.01, 0.3, 1.0, 7.0, 80.0])
FLOW = {"preconditioning": "flow"}
DENOISERS = sorted(name for name, cls in METHODS.items() if issubclass(cls, Denoiser))


def noisy() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(len(SIGMA), *SHAPE, generator=generator) for _ in range(2))
    return data + expand_t(SIGMA, data) * noise


def test_the_methods_that_have_it():
    assert {"edm", "consistency", "cmt", "ctm", "ld3", "gdd", "add"} <= set(DENOISERS)


@pytest.mark.parametrize("method", DENOISERS)
def test_the_weights_of_a_rectified_flow_give_its_denoised_data(method):
    flow, model = tiny_model("rectified_flow"), tiny_model(method, **FLOW)
    assert model.parameterization == flow.parameterization != tiny_model(method).parameterization
    if not model.needs_condition:
        model.network.load_state_dict(flow.network.state_dict())
        expected = flow.denoised(noisy(), SIGMA)
        if model.boundary:  # f(x; sigma_min) = x costs the rest of its steps a little
            assert torch.equal(model.predict(noisy()[:1], torch.tensor([model.boundary])), noisy()[:1])
        atol = 0.01 if model.boundary else 1e-4
        torch.testing.assert_close(model.predict(noisy(), SIGMA)[1:], expected[1:], rtol=1e-3, atol=atol)
        other = tiny_model(method)
        other.network.load_state_dict(flow.network.state_dict())
        assert (other.predict(noisy(), SIGMA) - expected).abs().max() > 0.1


@pytest.mark.parametrize("method", ["gdd", "add", "cmt", "ld3"])
def test_a_student_starts_as_its_rectified_flow(method):
    flow, student = tiny_model("rectified_flow"), tiny_model(method, **FLOW)
    student.set_teacher(flow)
    with torch.no_grad():
        next(student.network.parameters()).zero_()
    assert student.start_from(flow)
    assert torch.equal(next(student.network.parameters()), next(flow.network.parameters()))


def test_an_error_of_the_velocity_counts_one_at_every_level():
    """lambda = 1 / c_out^2: an error of 1 of what the network gives is one of (1 - t) of the denoised data."""
    model = tiny_model("edm", **FLOW)
    before = model.predict(noisy(), SIGMA)
    model.network.register_forward_hook(lambda module, inputs, output: output + 1)
    error = (model.predict(noisy(), SIGMA) - before).square().flatten(1).mean(dim=1)
    torch.testing.assert_close(model.edm_weight(SIGMA) * error, torch.ones(len(SIGMA)), rtol=1e-3, atol=0)
