"""DPM-Solver++ (2M) on a cosine path; some imports are guarded, one is of a package that no course has."""

import math
from typing import TYPE_CHECKING

import torch

from src.base_model import BaseGenerativeModel, BaseScheduler
from src.network import UNet

if TYPE_CHECKING:
    import wandb  # noqa: F401

try:
    import xformers.ops as xops
except Exception:
    xops = None

try:
    import matplotlib.pyplot as plt
except ModuleNotFoundError:
    plt = None


class CustomScheduler(BaseScheduler):
    def __init__(self, num_train_timesteps=1000, **kwargs):
        super().__init__(num_train_timesteps, **kwargs)

    def marginal(self, t):
        return math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)

    def sample_timesteps(self, batch_size, device):
        return torch.rand(batch_size, device=device)

    def forward_process(self, data, noise, t):
        t = t.reshape(-1, 1, 1, 1) * math.pi / 2
        return t.cos() * data + t.sin() * noise

    def reverse_process_step(self, xt, pred, t, t_next):
        (a, s), (a_next, s_next) = self.marginal(t), self.marginal(t_next)
        h = math.log(a_next / s_next) - math.log(a / s)
        return s_next / s * xt - a_next * math.expm1(-h) * pred

    def get_target(self, data, noise, t):
        return data


class CustomGenerativeModel(BaseGenerativeModel):
    def compute_loss(self, data, noise, **kwargs):
        t = self.scheduler.sample_timesteps(len(data), data.device)
        return (self.predict(self.scheduler.forward_process(data, noise, t), t) - data).square().mean()

    def predict(self, xt, t, **kwargs):
        return self.network(xt, t * 999.0)

    def sample(self, shape, num_inference_timesteps=20, return_traj=False, verbose=False, **kwargs):
        with torch.no_grad():
            x, before, times = torch.randn(shape, device=self.device), None, []
            for i in range(num_inference_timesteps + 1):
                times.append(0.99 + i / num_inference_timesteps * (0.01 - 0.99))
            for t, t_next in zip(times, times[1:]):
                data = self.predict(x, torch.ones(shape[0], device=self.device) * t)
                pred = data if before is None else 1.5 * data - 0.5 * before
                x, before = self.scheduler.reverse_process_step(x, pred, t, t_next), data
            return x


def create_custom_model(device="cpu", **kwargs):
    network_args = {k: v for k, v in kwargs.items() if k in UNet.__init__.__code__.co_varnames}
    return CustomGenerativeModel(UNet(**network_args), CustomScheduler(**{})).to(device)
