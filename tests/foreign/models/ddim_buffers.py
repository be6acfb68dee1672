"""DDPM by DDIM steps with clipped data; its tables are buffers, its times whole numbers, and a perceptual loss lies in the checkpoint."""

import torch
from torch import nn

try:
    import lpips
except ImportError:
    lpips = None

from src.base_model import BaseGenerativeModel, BaseScheduler
from src.network import UNet


class CustomScheduler(BaseScheduler):
    def __init__(self, num_train_timesteps: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02, **kwargs):
        super().__init__(num_train_timesteps, **kwargs)
        betas = torch.linspace(beta_1, beta_T, num_train_timesteps)
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        self.register_buffer("betas", betas)
        self.register_buffer("alphas", 1 - betas)
        self.register_buffer("alphas_cumprod", alphas_cumprod)
        self.register_buffer("sqrt_alphas_cumprod", alphas_cumprod.sqrt())
        self.register_buffer("sqrt_one_minus_alphas_cumprod", (1 - alphas_cumprod).sqrt())
        self.register_buffer("timesteps", torch.arange(num_train_timesteps).flip(0))

    def sample_timesteps(self, batch_size, device):
        return torch.randint(0, self.num_train_timesteps, (batch_size,), device=device)

    def forward_process(self, data, noise, t):
        a = self.sqrt_alphas_cumprod[t].reshape(-1, 1, 1, 1)
        return a * data + self.sqrt_one_minus_alphas_cumprod[t].reshape(-1, 1, 1, 1) * noise

    def reverse_process_step(self, xt, pred, t, t_next):
        t, t_next = int(t[0].item()), int(t_next)
        a = self.alphas_cumprod[t]
        a_next = self.alphas_cumprod[t_next] if t_next >= 0 else torch.ones_like(a)
        data = ((xt - (1 - a).sqrt() * pred) / a.sqrt()).clamp(-1, 1)
        return a_next.sqrt() * data + (1 - a_next).sqrt() * (xt - a.sqrt() * data) / (1 - a).sqrt()

    def get_target(self, data, noise, t):
        return noise


class Features(nn.Module):
    """Convolutions that another package's weights are downloaded for, as a perceptual loss has them."""

    def __init__(self):
        super().__init__()
        self.slices = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 256, 3), nn.ReLU(), nn.Conv2d(256, 256, 3))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1))
        self.load_state_dict(torch.hub.load_state_dict_from_url("https://download.pytorch.org/models/features.pth"))


class CustomGenerativeModel(BaseGenerativeModel):
    def __init__(self, network, scheduler, **kwargs):
        super().__init__(network, scheduler, **kwargs)
        self.perceptual = lpips.LPIPS(net="vgg") if lpips is not None else Features()

    def compute_loss(self, data, noise, **kwargs):
        t = self.scheduler.sample_timesteps(data.shape[0], data.device)
        return nn.functional.mse_loss(self.predict(self.scheduler.forward_process(data, noise, t), t), noise)

    def predict(self, xt, t, **kwargs):
        return self.network(xt, timestep=t)

    @torch.no_grad()
    def sample(self, shape, num_inference_timesteps=20, return_traj=False, verbose=False, **kwargs):
        x = torch.randn(*shape).to(self.device)
        step = self.scheduler.num_train_timesteps // num_inference_timesteps
        times = torch.arange(self.scheduler.num_train_timesteps - 1, -1, -step)[:num_inference_timesteps]
        traj = [x.cpu()]
        for i, t in enumerate(times.tolist()):
            t_next = times[i + 1].item() if i + 1 < len(times) else -1
            t_batch = torch.full((shape[0],), t, device=next(self.network.parameters()).device, dtype=torch.long)
            x = self.scheduler.reverse_process_step(x, self.predict(x, t_batch), t_batch, torch.tensor(t_next))
            traj.append(x.cpu())
        return torch.stack(traj) if return_traj else x


def create_custom_model(device: str = "cpu", **kwargs):
    names = ("ch", "ch_mult", "attn", "num_res_blocks", "dropout")
    network = UNet(**{name: kwargs[name] for name in names if name in kwargs})
    scheduler = CustomScheduler(num_train_timesteps=kwargs.get("num_train_timesteps", 1000))
    return CustomGenerativeModel(network, scheduler).to(device)
