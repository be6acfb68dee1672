"""EDM: the U-Net lies in a preconditioning module, which is the model's network; sampled by Euler steps."""

import numpy as np
import torch
from torch import nn

from src.base_model import BaseGenerativeModel, BaseScheduler
from src.network import UNet


class Precond(nn.Module):
    def __init__(self, model, sigma_data=0.5):
        super().__init__()
        self.model = model
        self.sigma_data = sigma_data

    def forward(self, x, sigma):
        sigma = sigma.to(torch.float32).reshape(-1, 1, 1, 1)
        total = sigma**2 + self.sigma_data**2
        inner = self.model(x / total.sqrt(), (sigma.log() / 4).flatten())
        return self.sigma_data**2 / total * x + sigma * self.sigma_data / total.sqrt() * inner


class CustomScheduler(BaseScheduler):
    def sample_timesteps(self, batch_size, device):
        return (torch.randn(batch_size, device=device) * 1.2 - 1.2).exp()

    def forward_process(self, data, noise, t):
        return data + t.reshape(-1, 1, 1, 1) * noise

    def reverse_process_step(self, xt, pred, t, t_next):
        return xt + (t_next - t).reshape(-1, 1, 1, 1) * (xt - pred) / t.reshape(-1, 1, 1, 1)

    def get_target(self, data, noise, t):
        return data


class CustomGenerativeModel(BaseGenerativeModel):
    def compute_loss(self, data, noise, **kwargs):
        sigma = self.scheduler.sample_timesteps(len(data), data.device)
        return ((self.predict(data + sigma.reshape(-1, 1, 1, 1) * noise, sigma) - data) ** 2).mean()

    def predict(self, xt, t, **kwargs):
        return self.network(xt, t)

    @torch.inference_mode()
    def sample(self, shape, num_inference_timesteps=20, return_traj=False, verbose=False, **kwargs):
        n = num_inference_timesteps
        sigmas = (80 ** (1 / 7) + np.arange(n) / max(n - 1, 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        sigmas = np.append(sigmas, 0.0).astype(np.float32)
        x = torch.from_numpy(np.random.randn(*shape).astype(np.float32)).to(self.device) * sigmas[0]
        for now, after in zip(sigmas[:-1], sigmas[1:]):
            t = torch.full((shape[0],), float(now), device=next(self.network.parameters()).device)
            x = self.scheduler.reverse_process_step(x, self.predict(x, t), t, torch.full_like(t, float(after)))
        return x


def create_custom_model(device="cpu", **kwargs):
    unet = UNet(**{k: v for k, v in kwargs.items() if k in ("ch", "ch_mult", "attn", "num_res_blocks", "dropout")})
    return CustomGenerativeModel(Precond(unet), CustomScheduler()).to(device)
