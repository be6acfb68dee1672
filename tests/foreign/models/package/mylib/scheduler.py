import torch

from src.base_model import BaseScheduler
from src.utils import expand_t


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
