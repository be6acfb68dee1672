"""Denoising Diffusion Probabilistic Models (Ho et al., NeurIPS 2020, arXiv:2006.11239); DDIM (ICLR 2021, arXiv:2010.02502)

With the cosine schedule of improved DDPM (ICML 2021, arXiv:2102.09672) and v-prediction (ICLR 2022, arXiv:2202.00512).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from tqdm import tqdm

from src.methods._base import Method, draw_noise, register
from src.methods._vp_path import VPPathScheduler
from src.utils import expand_t


@register("ddpm")
class DDPM(Method):
    """Learn the noise, the data or v of the variance-preserving path; go back by DDIM steps."""

    Scheduler = VPPathScheduler

    @dataclass
    class Config(VPPathScheduler.Config):
        time_scale: float = field(default=1000.0, metadata={"help": "the network's time embedding sees time_scale * t"})

    def compute_loss(self, data: torch.Tensor, noise: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Mean squared error of the prediction (arXiv:2006.11239, eq. 14): data and noise (B, ...) -> scalar."""
        t = self.scheduler.sample_timesteps(data.shape[0], data.device)
        pred = self.predict(self.scheduler.forward_process(data, noise, t), t)
        losses = (pred.to(data.dtype) - self.scheduler.get_target(data, noise, t)).square().flatten(1).mean(dim=1)
        self.report_losses(t, losses)
        return losses.mean()

    def predict(self, xt: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The network's epsilon, x0 or v (B, ...) at xt (B, ...) and t (B,) in [0, 1]."""
        return self.network(xt, t * self.config.time_scale, **kwargs)

    @property
    def parameterization(self) -> str:
        return f"{self.config.prediction}, {self.config.schedule}, time_scale {self.config.time_scale:g}"

    def denoised(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """x = data + sigma noise is xt / sqrt(alpha_bar) where alpha_bar = 1 / (1 + sigma^2), between two steps' times."""
        scheduler = self.scheduler
        log = -(sigma.double() ** 2).log1p()
        table = scheduler.log_alpha_bar.double()
        step = torch.searchsorted(-table, -log).clamp(1, len(table) - 1)
        after = ((table[step - 1] - log) / (table[step - 1] - table[step])).clamp(0, 1)
        t = ((step - 1 + after) / scheduler.num_train_timesteps).float()
        xt = (x * expand_t((log / 2).exp(), x)).to(x.dtype)
        return scheduler.split(xt, self.predict(xt, t).to(x.dtype), expand_t(log.to(x.dtype), x))[0]

    def time_grid(self, steps: int) -> torch.Tensor:
        """steps + 1 times from 1 to 0, equally spaced to rounding, float32. ValueError unless 1..num_train_timesteps steps."""
        total = self.scheduler.num_train_timesteps
        if not 1 <= steps <= total:
            raise ValueError(f"expected from 1 to num_train_timesteps = {total} sampling steps, got {steps}")
        return torch.tensor([(2 * total * i + steps) // (2 * steps) for i in range(steps, -1, -1)], device=self.device) / total

    @torch.no_grad()
    def sample(
        self,
        shape: tuple[int, ...],
        num_inference_timesteps: int = 20,
        return_traj: bool = False,
        verbose: bool = False,
        seeds: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | list[torch.Tensor]:
        """num_inference_timesteps DDIM steps, one network call each, at most num_train_timesteps (else ValueError).

        Returns images (B, 3, H, W), or with return_traj the list of all num_inference_timesteps + 1 states. `seeds`, one a
        image, fix each image's noise, also that of eta > 0.
        """
        scheduler = self.scheduler
        grid = self.time_grid(num_inference_timesteps)
        x = draw_noise(shape, self.device, seeds)
        states = [x]
        for i, (t, t_next) in enumerate(tqdm(list(pairwise(grid)), disable=not verbose), start=1):
            t, t_next = t.expand(shape[0]), t_next.expand(shape[0])
            pred = self.predict(x, t, **kwargs).to(x.dtype)
            added = i < num_inference_timesteps and scheduler.config.eta > 0
            noise = draw_noise(shape, self.device, seeds, draw=i) if added else torch.zeros_like(x)
            x = scheduler.reverse_process_step(x, pred, t, t_next, noise)
            states.append(x)
        return states if return_traj else x
