"""What comes from the network is told from what does not: honest samplers of every kind, and pictures brought in otherwise."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from src.datasets.toon import toon_faces
from src.submission.audit import LEAST_SHARE
from src.submission.lineage import Call, is_noise, shares
from tests import shipped
from tests.helpers import slow_but, tiny_model

FACES = torch.from_numpy(toon_faces(16, seed=5)).float() / 127.5 - 1
ALPHA = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)  # of a DDPM with 1,000 steps
COUNT = 8


class Recorded:
    """A network for noise prediction whose denoised images are blurred faces, and the calls that it got."""

    def __init__(self):
        self.calls: list[Call] = []

    def __call__(self, x: torch.Tensor, step: int) -> torch.Tensor:
        signal, noise = ALPHA[step].sqrt(), (1 - ALPHA[step]).sqrt()
        denoised = F.avg_pool2d(FACES[:COUNT], 5, 1, 2) + 0.05 * torch.tanh(F.avg_pool2d(x, 3, 1, 1))
        answer = (x - signal * (denoised + 0.05 * torch.randn_like(x))) / noise
        self.calls.append(Call(x, answer))
        return answer


def ddim(network: Recorded, nfe: int, clip: Callable = lambda denoised: denoised, eta: float = 0.0) -> torch.Tensor:
    steps = torch.linspace(999, 0, nfe + 1).long()
    x = torch.randn(COUNT, 3, 64, 64)
    for step, next_step in pairwise(steps):
        now, after = ALPHA[step], ALPHA[next_step] if next_step else torch.tensor(1.0)
        denoised = clip((x - (1 - now).sqrt() * network(x, step)) / now.sqrt())
        noise = (x - now.sqrt() * denoised) / (1 - now).sqrt()
        fresh = eta * ((1 - after) / (1 - now) * (1 - now / after)).sqrt()
        x = after.sqrt() * denoised + (1 - after - fresh**2).clamp(min=0).sqrt() * noise + fresh * torch.randn_like(x)
    return x


def thresholded(denoised: torch.Tensor) -> torch.Tensor:
    """Dynamic thresholding: an image's own bound, and its scale."""
    bound = torch.quantile(denoised.abs().flatten(1), 0.95, dim=1).clamp(min=1)[:, None, None, None]
    return denoised.clamp(-bound, bound) / bound


CLIPS = {
    "not": lambda denoised: denoised,
    "clamped": lambda denoised: denoised.clamp(-1, 1),
    "thresholded": thresholded,
}
LAST = {  # what honest code does to its images -> the least share that it leaves
    "nothing": (lambda x: x, 0.999),
    "clamp": (lambda x: x.clamp(-1, 1), 0.999),
    "bytes": (lambda x: ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1, 0.999),
    "bfloat16": (lambda x: x.bfloat16().float(), 0.999),
    "the data's mean and deviation": (lambda x: x * torch.tensor([0.5, 0.6, 0.7])[:, None, None] + 0.1, 0.999),
    "an image's mean and deviation": (lambda x: (x - x.mean((2, 3), True)) / x.std((2, 3), keepdim=True) / 2, 0.999),
    "tanh": (torch.tanh, 0.99),
    "gamma": (lambda x: ((x.clamp(-1, 1) + 1) / 2) ** 0.8 * 2 - 1, 0.99),
    "sharpened": (lambda x: x + 0.3 * (x - F.avg_pool2d(x, 3, 1, 1)), 0.99),
    "blurred": (lambda x: F.avg_pool2d(x, 3, 1, 1), 0.97),
    "noise": (lambda x: x + 0.3 * torch.randn_like(x), 0.999),
}


@pytest.mark.parametrize("nfe", [1, 2, 4])
@pytest.mark.parametrize("method", slow_but(["rectified_flow", "consistency", "gdd"], shipped.METHODS))
def test_every_method_of_the_kit(method, nfe):
    model, calls = tiny_model(method), []
    model.network.register_forward_hook(lambda module, given, answer: calls.append(Call(given[0], answer)))
    torch.manual_seed(0)
    with torch.no_grad():
        images = model.sample((COUNT, 3, 64, 64), num_inference_timesteps=nfe, verbose=False)
    assert len(calls) == nfe and shares(calls, images).min() > 0.9999


@pytest.mark.parametrize("nfe", [1, 2, 4])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_steps_that_clip_and_add_noise(nfe, clip, eta):
    torch.manual_seed(0)
    network = Recorded()
    images = ddim(network, nfe, CLIPS[clip], eta)
    assert shares(network.calls, images).min() > 0.999


@pytest.mark.parametrize("last", LAST)
def test_what_is_done_to_the_images(last):
    torch.manual_seed(0)
    network, (change, least) = Recorded(), LAST[last]
    images = ddim(network, 2)
    assert shares(network.calls, change(images)).min() > least > LEAST_SHARE


@pytest.mark.slow
@pytest.mark.parametrize("nfe", [1, 2, 4])
def test_pictures_that_the_network_did_not_make(nfe):
    torch.manual_seed(0)
    network = Recorded()
    honest, stored = ddim(network, nfe, CLIPS["clamped"]), FACES[COUNT:]
    details = stored - F.avg_pool2d(stored, 5, 1, 2)
    several = torch.arange(12288).reshape(3, 64, 64) == 77
    for images in (
        stored,
        stored + 1e-3 * honest,
        0.9 * stored + 0.1 * honest,
        0.5 * stored + 0.5 * honest,
        0.3 * stored + 0.7 * honest,
        F.avg_pool2d(honest, 5, 1, 2) + details,
        (honest + honest.flip(0)) / 2,
        torch.where(several, 1e6 * honest, stored),
        torch.where(several, 1e6, stored),
    ):
        share = shares(network.calls, images)
        assert share.mean() < 0.92 and (share < LEAST_SHARE).float().mean() > 0.7


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3, 1.0])
def test_pictures_that_are_given_to_the_network(noise):
    """The image is honest then, a sum of the input and the answer; the input of the first call is not noise."""
    torch.manual_seed(0)
    x = FACES[COUNT:] + noise * torch.randn(COUNT, 3, 64, 64)
    answer = 0.1 * torch.randn_like(x)
    assert shares([Call(x, answer)], x + answer).max() < LEAST_SHARE
    start = torch.randn_like(x)
    calls = [Call(start, answer), Call(0.5 * start + x, answer)]
    assert shares(calls, x).mean() < LEAST_SHARE, "nor is what the second call adds to the first"


def test_rows_are_told_apart():
    """One image of eight is stored; the others keep their shares."""
    torch.manual_seed(0)
    network = Recorded()
    images = ddim(network, 2)
    images[3] = FACES[COUNT]
    share = shares(network.calls, images)
    assert share[3] < 0.5 and share[torch.arange(COUNT) != 3].min() > LEAST_SHARE


def test_without_a_call():
    """Noise is nobody's picture; all else has no origin."""
    torch.manual_seed(0)
    assert shares([], torch.randn(2, 3, 64, 64)).tolist() == [1, 1]
    assert shares([], FACES[:2]).tolist() == [0, 0]


def test_noise():
    torch.manual_seed(0)
    normal = torch.randn(64, 3, 64, 64)
    assert is_noise(normal).all() and is_noise(80 * normal + 3).all() and is_noise(torch.rand(64, 3, 64, 64)).all()
    assert not is_noise(FACES).any() and not is_noise(F.avg_pool2d(normal, 3, 1, 1)).any()
    grey, rare = normal[:, :1].expand(-1, 3, -1, -1), normal * (torch.rand_like(normal) < 0.1)
    assert not is_noise(grey).any() and not is_noise(rare).any()
    assert is_noise(normal + 0.5 * FACES[:1]).float().mean() < 0.5
