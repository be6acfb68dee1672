import torch
from tqdm import tqdm

from src.base_model import BaseGenerativeModel


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
        times = torch.linspace(1, 0, num_inference_timesteps + 1, device=self.device)
        traj = [x]
        for t, t_next in tqdm(list(zip(times[:-1], times[1:])), disable=not verbose):
            t, t_next = t.expand(shape[0]), t_next.expand(shape[0])
            x = self.scheduler.reverse_process_step(x, self.predict(x, t, **kwargs), t, t_next)
            traj.append(x)
        return torch.stack(traj).cpu() if return_traj else x
