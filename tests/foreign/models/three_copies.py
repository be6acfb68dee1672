"""A consistency model with a target and an average; times are 0-d tensors and plain numbers."""

import copy
import math

import torch

from src.base_model import BaseGenerativeModel, BaseScheduler
from src.network import UNet


class CustomScheduler(BaseScheduler):
    def _setup(self, sigma_min=0.002, sigma_max=80.0, rho=7.0, **kwargs):
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho

    def sample_timesteps(self, batch_size, device):
        return torch.exp(torch.randn(batch_size, device=device) * 2 - 1.1)

    def forward_process(self, data, noise, t):
        return data + t.view(-1, 1, 1, 1) * noise

    def reverse_process_step(self, xt, pred, t, t_next):
        return pred + math.sqrt(max(float(t_next) ** 2 - self.sigma_min**2, 0)) * torch.randn_like(xt)

    def get_target(self, data, noise, t):
        return data


class CustomGenerativeModel(BaseGenerativeModel):
    def _setup(self, **kwargs):
        self.target_network = copy.deepcopy(self.network)
        self.ema_network = copy.deepcopy(self.network)

    def consistency(self, network, x, sigma):
        c_skip = 0.25 / ((sigma - 0.002) ** 2 + 0.25)
        c_out = 0.5 * (sigma - 0.002) / (sigma**2 + 0.25) ** 0.5
        return c_skip * x + c_out * network(x / (sigma**2 + 0.25) ** 0.5, torch.tensor(250 * math.log(sigma)))

    def compute_loss(self, data, noise, **kwargs):
        return (self.consistency(self.network, data + noise, 1.0) - data).abs().mean()

    def predict(self, xt, t, **kwargs):
        return self.consistency(self.ema_network, xt, t.item() if isinstance(t, torch.Tensor) else t)

    @torch.no_grad()
    def sample(self, shape, num_inference_timesteps=20, return_traj=False, verbose=False, **kwargs):
        sigmas = [80.0, 24.4, 5.84, 0.9][:num_inference_timesteps] + [0.002]
        x = torch.randn(shape, device=self.device) * sigmas[0]
        states = [x]
        for sigma, sigma_next in zip(sigmas, sigmas[1:]):
            x = self.scheduler.reverse_process_step(x, self.predict(x, torch.tensor(sigma)), sigma, sigma_next)
            states.append(x)
        return torch.stack(states).cpu() if return_traj else x.clamp(-1, 1)


def create_custom_model(device="cpu", model_type="consistency", scheduler_type="karras", **kwargs):
    assert model_type == "consistency"
    config = {key: kwargs[key] for key in ("ch", "ch_mult", "attn", "num_res_blocks", "dropout") if key in kwargs}
    return CustomGenerativeModel(UNet(**config), CustomScheduler(kwargs.get("num_train_timesteps", 1000))).to(device)
