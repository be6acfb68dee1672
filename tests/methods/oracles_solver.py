"""A teacher that knows its data in closed form, and the students that learn from it."""

import torch

from src.methods import get_method
from src.utils import expand_t
from tests.methods.oracles import GAUSSIAN, Mixture


class ExactTeacher(torch.nn.Module):
    """E[data | x] of a mixture of Gaussians, times `sign` in its distance from x: -1 plants a slope of the wrong sign."""

    def __init__(self, data: Mixture = GAUSSIAN, sign: int = 1):
        super().__init__()
        self.data, self.sign = data, sign

    def denoised(self, x, sigma):
        mean = self.data.posterior_mean(x, 1.0, expand_t(sigma, x))
        return (x + self.sign * (mean - x)).to(x.dtype)


def student(method, data=GAUSSIAN, sign=1, **options):
    """A student of the exact teacher, in float64; its own network is no good for anything."""
    model = get_method(method).from_options(torch.nn.Linear(1, 1), **options).double()
    model.train_only["teacher"] = ExactTeacher(data, sign)
    return model


def start(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def pairs(batch=256, data=GAUSSIAN, seed=0):
    """Data and noise, (batch, 2) each."""
    return data.data((batch, 2), seed), start((batch, 2), seed + 1)


class PerceptualStub(torch.nn.Module):
    """Stands for the package's LPIPS: the same call and the same shape of the result."""

    def __init__(self, net, verbose):
        super().__init__()
        assert net == "vgg" and not verbose
        self.weight = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, ours, theirs):
        return self.weight * (ours - theirs).abs().mean(dim=(1, 2, 3), keepdim=True)
