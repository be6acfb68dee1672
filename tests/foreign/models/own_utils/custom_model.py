"""Rectified flow with helpers of its own in src/utils.py."""

import torch
from tqdm import tqdm

from src.base_model import BaseGenerativeModel, BaseScheduler
from src.network import UNet
from src.utils import clip_images, expand_t, shifted_times


class CustomScheduler(BaseScheduler):
    def __init__(self, num_train_timesteps=1000, **kwargs):
        super().__init__(num_train_timesteps, **kwargs)

    def sample_timesteps(self, batch_size, device):
        return torch.rand(batch_size, device=device)

    def forward_process(self, data, noise, t):
        t = expand_t(t, data)
        return (1 - t) * data + t * noise

    def reverse_process_step(self, xt, pred, t, t_next):
        return xt - expand_t(t - t_next, xt) * pred

    def get_target(self, data, noise, t):
        return noise - data


class CustomGenerativeModel(BaseGenerativeModel):
    def __init__(self, network, scheduler, **kwargs):
        super().__init__(network, scheduler, **kwargs)

    def compute_loss(self, data, noise, **kwargs):
        t = self.scheduler.sample_timesteps(len(data), self.device)
        pred = self.predict(self.scheduler.forward_process(data, noise, t), t)
        return ((pred - self.scheduler.get_target(data, noise, t)) ** 2).mean()

    def predict(self, xt, t, **kwargs):
        return self.network(xt, t * 1000, **kwargs)

    @torch.no_grad()
    def sample(self, shape, num_inference_timesteps=20, return_traj=False, verbose=False, **kwargs):
        x = torch.randn(shape, device=self.device)
        times = shifted_times(num_inference_timesteps, self.device)
        traj = [x]
        for t, t_next in tqdm(list(zip(times[:-1], times[1:])), disable=not verbose):
            t, t_next = t.expand(shape[0]), t_next.expand(shape[0])
            x = self.scheduler.reverse_process_step(x, self.predict(x, t, **kwargs), t, t_next)
            traj.append(x)
        return torch.stack(traj).cpu() if return_traj else clip_images(x)


def create_custom_model(device="cpu", ch=128, ch_mult=(1, 2, 2, 2), attn=(1,), num_res_blocks=4, dropout=0.1, **kwargs):
    network = UNet(ch=ch, ch_mult=ch_mult, attn=attn, num_res_blocks=num_res_blocks, dropout=dropout)
    model = CustomGenerativeModel(network, CustomScheduler(kwargs.pop("num_train_timesteps", 1000)), **kwargs)
    return model.to(device)
