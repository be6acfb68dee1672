"""EDM (Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, NeurIPS 2022, arXiv:2206.00364)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from src.common.guidance import with_labels
from src.common.noise import draw_noise
from src.common.progress import tracked
from src.methods.shared.karras_path import KARRAS_RHO, Denoiser, DenoiserOptions, KarrasPathScheduler, grid_of_calls
from src.methods.shared.method import register
from src.utils import expand_t

SOLVERS = ("euler", "heun")


@register("edm")
class EDM(Denoiser):
    """Learn the denoised data at every noise level; follow the probability flow with Heun's or Euler's method."""

    takes_labels = takes_guidance = True

    @dataclass
    class Config(DenoiserOptions, KarrasPathScheduler.Config):
        solver: str = field(
            default="heun", metadata={"help": "heun is the nearer one from about 20 calls on, euler below", "choices": SOLVERS}
        )
        rho: float = field(
            default=KARRAS_RHO, metadata={"help": "above 1, sampling has shorter steps at low noise levels", "above": 0}
        )
        S_churn: float = field(default=0.0, metadata={"help": "noise added in sampling, over all steps", "minimum": 0})
        S_min: float = field(default=0.0, metadata={"help": "least noise level at which noise is added", "minimum": 0})
        S_max: float = field(default=1e9, metadata={"help": "highest level at which noise is added", "minimum": 0})
        S_noise: float = field(default=1.0, metadata={"help": "standard deviation of added noise", "minimum": 0})

    def compute_loss(
        self, data: torch.Tensor, noise: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Squared error of the denoised data, weighted by lambda(sigma) (eq. 2 and table 1): data, noise (B, ...) -> scalar."""
        sigma = self.scheduler.sample_timesteps(data.shape[0], data.device)
        denoised = self.predict(self.scheduler.forward_process(data, noise, sigma), sigma, **with_labels(labels))
        losses = self.edm_weight(sigma) * (denoised - self.scheduler.get_target(data, noise, sigma)).square().flatten(1).mean(
            dim=1
        )
        self.report_losses(sigma, losses)
        return losses.mean()

    def denoised(self, x: torch.Tensor, sigma: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return self.predict(x, sigma, **kwargs)

    def time_grid(self, calls: int) -> torch.Tensor:
        """Noise levels of sampling in `calls` network calls, from sigma_max to 0, both included: (steps + 1,), float32.

        Euler's method makes a step per call, Heun's calls // 2 + 1 steps. Raises ValueError where calls is below 1.
        """
        config = self.config
        steps = calls if config.solver == "euler" or calls < 1 else calls // 2 + 1
        return grid_of_calls(config.sigma_max, config.sigma_min, steps, self.device, config.rho)

    def churn(self, x: torch.Tensor, t: torch.Tensor, steps: int, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Raise the noise level t (B,) of x (B, ...) as algorithm 2 does: x and its new level."""
        config = self.config
        gamma = min(config.S_churn / steps, math.sqrt(2) - 1)
        raised = torch.where((config.S_min <= t) & (t <= config.S_max), t * (1 + gamma), t)
        return x + expand_t((raised**2 - t**2).clamp(min=0).sqrt(), x) * config.S_noise * noise, raised

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
        """Follow the probability flow with exactly num_inference_timesteps network calls (algorithms 1 and 2).

        Heun's method spends the calls beyond one per step on corrections. Every step but the last, to noise level 0, has one;
        of an even number of calls the first step, the noisiest, has none either.

        Returns images (B, 3, H, W), or with return_traj the list of the states at all noise levels. `seeds`, one per image, fix
        each image's noise, also that of S_churn. The state is float32, whatever the network computes in.
        """
        levels = self.time_grid(num_inference_timesteps)
        steps = len(levels) - 1
        corrections = range(2 * steps - 1 - num_inference_timesteps, steps - 1)
        x = draw_noise(shape, self.device, seeds) * levels[0]
        states = [x]
        for i, (t, t_next) in enumerate(tracked(list(pairwise(levels)), "sampling" if verbose else None, "step")):
            t, t_next = t.expand(shape[0]), t_next.expand(shape[0])
            if self.config.S_churn > 0:
                x, t = self.churn(x, t, steps, draw_noise(shape, self.device, seeds, draw=i + 1))
            denoised = self.steered(x, t, **kwargs)
            reached = self.scheduler.reverse_process_step(x, denoised, t, t_next)
            if i in corrections:
                slope = (x - denoised) / expand_t(t, x)
                slope_next = (reached - self.steered(reached, t_next, **kwargs)) / expand_t(t_next, x)
                reached = x + expand_t(t_next - t, x) * (slope + slope_next) / 2
            x = reached
            states.append(x)
        return states if return_traj else x
