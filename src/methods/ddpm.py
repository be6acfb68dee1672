"""Denoising Diffusion Probabilistic Models (Ho et al., NeurIPS 2020, arXiv:2006.11239); DDIM (ICLR 2021, arXiv:2010.02502)

With the cosine schedule of improved DDPM (ICML 2021, arXiv:2102.09672) and v-prediction (ICLR 2022, arXiv:2202.00512).
"""

from typing import Any

import torch
from torch import Tensor

from src.common.devices import float64_device
from src.common.guidance import with_labels
from src.methods.shared.method import register
from src.methods.shared.vp_path import DDIMModel
from src.utils import expand_t


@register("ddpm")
class DDPM(DDIMModel):
    """Learn the noise, the data or v of the variance-preserving path; go back by DDIM steps."""

    cost = 1.1

    def compute_loss(self, data: Tensor, noise: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Mean squared error of the prediction (arXiv:2006.11239, eq. 14): data and noise (B, ...) -> scalar."""
        t = self.scheduler.sample_timesteps(data.shape[0], data.device)
        pred = self.predict(self.scheduler.forward_process(data, noise, t), t, **with_labels(labels))
        losses = (pred.to(data.dtype) - self.scheduler.get_target(data, noise, t)).square().flatten(1).mean(dim=1)
        return self.report_losses(t, losses)

    def denoised(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """x = data + sigma noise is xt / sqrt(alpha_bar) where alpha_bar = 1 / (1 + sigma^2), between two steps' times."""
        scheduler = self.scheduler
        place = float64_device(x.device)
        log = -(sigma.to(place).double() ** 2).log1p()
        table = scheduler.log_alpha_bar.to(place).double()
        step = torch.searchsorted(-table, -log).clamp(1, len(table) - 1)
        after = ((table[step - 1] - log) / (table[step - 1] - table[step])).clamp(0, 1)
        t = ((step - 1 + after) / scheduler.num_train_timesteps).float().to(x.device)
        xt = (x.to(place) * expand_t((log / 2).exp(), x)).to(x)
        pred = self.predict(xt, t, **kwargs).to(x.dtype)
        return scheduler.data_and_noise(xt, pred, None, expand_t(log.to(x), x))[0]
