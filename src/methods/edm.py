"""EDM (Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, NeurIPS 2022, arXiv:2206.00364)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.common.guidance import with_labels
from src.common.options import option
from src.methods.shared.karras_path import KARRAS_RHO, Denoiser, KarrasPathScheduler
from src.methods.shared.method import register
from src.methods.shared.solvers import grid_of_calls
from src.utils import expand_t

SOLVERS = ("euler", "heun")


@register("edm")
class EDM(Denoiser):
    """Learn the denoised data at every noise level; follow the probability flow with Heun's or Euler's method."""

    takes_labels = takes_guidance = True
    cost = 1.0

    @dataclass
    class Config(KarrasPathScheduler.Config):
        solver: str = option("heun", "heun is the nearer one from about 20 calls on, euler below", choices=SOLVERS)
        rho: float = option(KARRAS_RHO, "above 1, sampling has shorter steps at low noise levels", above=0)
        S_churn: float = option(0.0, "noise added in sampling, over all steps", minimum=0)
        S_min: float = option(0.0, "least noise level at which noise is added", minimum=0)
        S_max: float = option(1e9, "highest level at which noise is added", minimum=0)
        S_noise: float = option(1.0, "standard deviation of added noise", minimum=0)

    def compute_loss(self, data: Tensor, noise: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Squared error of the denoised data, weighted by lambda(sigma) (eq. 2 and table 1): data, noise (B, ...) -> scalar."""
        sigma = self.scheduler.sample_timesteps(data.shape[0], data.device)
        denoised = self.predict(self.scheduler.forward_process(data, noise, sigma), sigma, **with_labels(labels))
        losses = self.edm_weight(sigma) * (denoised - self.scheduler.get_target(data, noise, sigma)).square().flatten(1).mean(
            dim=1
        )
        return self.report_losses(sigma, losses)

    def denoised(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        return self.predict(x, sigma, **kwargs)

    def time_grid(self, calls: int) -> Tensor:
        """Noise levels of sampling in `calls` network calls, from sigma_max to 0, both included: (steps + 1,), float32.

        Euler's method makes a step per call, Heun's calls // 2 + 1 steps. Raises ValueError where calls is below 1.
        """
        config = self.config
        steps = calls if config.solver == "euler" or calls < 1 else calls // 2 + 1
        return grid_of_calls(config.sigma_max, config.sigma_min, steps, self.device, config.rho)

    def churn(self, x: Tensor, t: Tensor, steps: int, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Raise the noise level t (B,) of x (B, ...) as algorithm 2 does: x and its new level."""
        config = self.config
        gamma = min(config.S_churn / steps, math.sqrt(2) - 1)
        raised = torch.where((config.S_min <= t) & (t <= config.S_max), t * (1 + gamma), t)
        return x + expand_t((raised**2 - t**2).clamp(min=0).sqrt(), x) * config.S_noise * noise, raised

    def sampling_step(
        self, x: Tensor, t: Tensor, t_next: Tensor, noise: Callable[[], Tensor], calls: int = 0, **kwargs: Any
    ) -> Tensor:
        """One step of algorithm 1 or 2, in one network call, or in two with Heun's correction.

        Heun's method spends the calls beyond one per step on corrections. Every step but the last, to noise level 0, has one;
        of an even number of calls the first step, the noisiest, has none either. calls: of the whole sampler; 0: this is one
        step by itself, to noise level 0.
        """
        first, last = bool(t.flatten()[0] >= self.config.sigma_max), bool(t_next.flatten()[0] == 0)  # as float32
        if self.config.S_churn > 0 and calls:
            x, t = self.churn(x, t, len(self.time_grid(calls)) - 1, noise())
        denoised = self.steered(x, t, **kwargs)
        reached = self.scheduler.reverse_process_step(x, denoised, t, t_next)
        if self.config.solver == "euler" or last or (first and calls % 2 == 0):
            return reached
        slope = (x - denoised) / expand_t(t, x)
        slope_next = (reached - self.steered(reached, t_next, **kwargs)) / expand_t(t_next, x)
        return x + expand_t(t_next - t, x) * (slope + slope_next) / 2

    def sample(self, shape: Sequence[int], num_inference_timesteps: int = 20, *args: Any, **kwargs: Any) -> Any:
        """As Method.sample, in exactly num_inference_timesteps network calls, which are more than steps with Heun's method."""
        return super().sample(shape, num_inference_timesteps, *args, calls=num_inference_timesteps, **kwargs)
