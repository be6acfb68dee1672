"""Consistency trajectory models (Kim et al., ICLR 2024, arXiv:2310.02279)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from src.common.options import option
from src.methods.shared.adversarial import DiscriminatorOptions, WithDiscriminator
from src.methods.shared.discriminators import hinge_discriminator, hinge_generator
from src.methods.shared.karras_path import KARRAS_RHO, Denoiser, KarrasPathScheduler
from src.methods.shared.method import register
from src.methods.shared.solvers import DistanceOptions, WithDistance, euler_step, grid_of_calls, heun_step, karras_grid
from src.methods.shared.targets import follow, frozen_copy
from src.utils import expand_t

SOLVERS = {"heun": heun_step, "euler": euler_step}


@register("ctm")
class CTM(WithDistance, WithDiscriminator, Denoiser):
    """Learn jumps between any two noise levels t >= s of a teacher's flow: G(x, t, s) = s/t x + (1 - s/t) g(x, t, s).

    For s = 0 that is a consistency model, and g(x, t, t) is the denoised data. A jump from t to s shall end where the teacher's
    solver, from t to u, and a jump from u to s end; both ends are compared after another jump to 0, and every right-hand side
    is the network's average (the target). Levels are those of a Karras grid; u is up to solver_steps of its steps below t.
    g has EDM's preconditioning and s as the network's condition. A training step calls the teacher 2 solver_steps times with
    Heun's method, the student twice and the target three times; it holds one more network.

    With lambda_GAN above 0 a discriminator looks at the student's end as well. The authors let it join in when the rest has
    learned: as a second run, with --init_from the first. Its loss is weighted against the trajectory loss by their gradients
    in the network's last layer, for each part of a divided batch; the denoising loss, other than in the paper, is not.
    """

    needs_condition = True
    cost = 6.5

    @dataclass
    class Config(DiscriminatorOptions, DistanceOptions, KarrasPathScheduler.Config):
        N: int = option(18, "noise levels of the training grid", minimum=2)
        solver: str = option("heun", "the teacher's", choices=tuple(SOLVERS))
        solver_steps: int = option(4, "most steps of the grid that the teacher solves; N is the paper's", minimum=1)
        mu: float = option(0.999, "what the target network keeps of itself at each step", minimum=0, below=1)
        lambda_DSM: float = option(1.0, "weight of the denoising loss on g(x, t, t)", minimum=0)
        lambda_GAN: float = option(0.0, "of the adversarial loss; the paper's is 1", minimum=0)
        gamma: float = option(0.0, "sampling: 0 jumps from level to level, 1 to the data and back", minimum=0, maximum=1)
        rho: float = option(KARRAS_RHO, "above 1, sampling has more of its levels near the data", above=0)

        def validate(self) -> None:
            super().validate()
            if self.solver_steps > self.N:
                raise ValueError(f"expected solver_steps from 1 to N, and N from 2, got {self.solver_steps} and {self.N}")

    def _setup(self, **kwargs: Any) -> None:
        super()._setup(**kwargs)
        self.train_only["target"] = frozen_copy(self.network)

    @property
    def has_discriminator(self) -> bool:
        return self.config.lambda_GAN > 0

    def on_step_end(self, step: int, total_steps: int) -> None:
        super().on_step_end(step, total_steps)
        follow(self.train_only["target"], self.network, self.config.mu)

    def predict(
        self, xt: Tensor, t: Tensor, s: Tensor | None = None, network: nn.Module | None = None, **kwargs: Any
    ) -> Tensor:
        """g(xt, t, s), (B, ...), from xt at levels t (B,) towards s (B,); without s the denoised data g(xt, t, t).

        The network's condition of 0 is that of sigma_min. network: another than the model's own.
        """
        network = self.network if network is None else network
        condition = self.config.time_scale * (t if s is None else s).clamp(min=self.config.sigma_min).log() / 4
        return self.preconditioned(lambda x, time: network(x, time, condition, **kwargs), xt, t)

    def jump(self, xt: Tensor, t: Tensor, s: Tensor, network: nn.Module | None = None, **kwargs: Any) -> Tensor:
        """G(xt, t, s): where xt (B, ...) at levels t (B,) comes to at s (B,), at most t. It stays where t is 0."""
        kept = expand_t(torch.where(t > 0, s / t, 1.0), xt)
        return kept * xt + (1 - kept) * self.predict(xt, t, s, network, **kwargs)

    def compute_loss(
        self, data: Tensor, noise: Tensor, step: int | None = None, group: str = "network", **kwargs: Any
    ) -> Tensor:
        """The trajectory loss, lambda_DSM times the denoising loss, and the adversarial one: data, noise (B, ...) -> scalar.

        For the group "discriminator" its hinge loss. Before step 1 the target becomes the network, so that weights loaded after
        the model was built are followed too.
        """
        if group == "discriminator":
            return self.discriminator_loss(data, noise, step or 1, hinge_discriminator)
        if step == 1:
            follow(self.train_only["target"], self.network, 0.0)
        t, here, there = self.trajectory_ends(data, noise)
        trajectory = total = self.report_losses(t, self.distance(here, there))
        if self.config.lambda_DSM > 0:
            total = total + self.config.lambda_DSM * self.denoising_loss(data, noise)
        if self.config.lambda_GAN > 0:
            adversarial = hinge_generator(self.critic_logits(here.to(data.dtype))).mean()
            total = total + self.config.lambda_GAN * self.adaptive_weight(trajectory, adversarial) * adversarial
        return total

    def adaptive_weight(self, loss: Tensor, other: Tensor) -> Tensor:
        """How many times larger the gradient of loss is than that of other in the weights of the last layer; at most 10^4."""
        last = [parameter for parameter in self.network.parameters() if parameter.ndim > 1][-1]
        sizes = [torch.autograd.grad(scalar, last, retain_graph=True)[0].float().norm() for scalar in (loss, other)]
        return (sizes[0] / (sizes[1] + 1e-4)).clamp(max=1e4)

    def generate(self, data: Tensor, noise: Tensor, labels: None = None) -> tuple[Tensor, Tensor]:
        """What the student's ends at 0 are, (B, ...), at random levels t (B,) and s, and these t."""
        levels, i, _, k = self.draw_levels(len(data), data.device)
        xt = self.scheduler.forward_process(data, noise, levels[i])
        return self.end(xt, levels[i], levels[k]).to(data.dtype), levels[i]

    def draw_levels(self, batch: int, device: torch.device) -> tuple[Tensor, ...]:
        """The training grid and places i < j <= k (B,) in it: of t, of u, where the teacher ends, and of s."""
        config = self.config
        levels = karras_grid(config.sigma_max, config.sigma_min, config.N, device)
        i = torch.randint(config.N, (batch,), device=device)
        k = i + 1 + (torch.rand(batch, device=device) * (config.N - i)).long().clamp(max=config.N - i - 1)
        j = torch.minimum(i + torch.randint(1, config.solver_steps + 1, (batch,), device=device), k)
        return levels, i, j, k

    def end(self, xt: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The student's end G'(G(xt, t, s), s, 0), (B, ...), with G' the target's jump."""
        return self.jump(self.jump(xt, t, s), s, torch.zeros_like(s), self.train_only["target"])

    def trajectory_ends(self, data: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """What the trajectory loss compares, at random t (B,) and s: t, and the ends at 0 of student and teacher (B, ...).

        The teacher's is G'(G'(solver(xt, t, u), u, s), s, 0).
        """
        levels, i, j, k = self.draw_levels(len(data), data.device)
        t, u, s = levels[i], levels[j], levels[k]
        xt, target = self.scheduler.forward_process(data, noise, t), self.train_only["target"]
        here = self.end(xt, t, s)
        with torch.no_grad():
            there = self.jump(self.jump(self.solve(xt, levels, i, j), u, s, target), s, torch.zeros_like(s), target)
        return t, here, there

    def solve(self, xt: Tensor, levels: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Where the teacher's solver takes xt (B, ...) from levels[i] to levels[j], i < j (B,), in steps of the grid."""
        step, least = SOLVERS[self.config.solver], self.config.sigma_min
        for n in range(self.config.solver_steps):
            here, there = torch.minimum(i + n, j), torch.minimum(i + n + 1, j)
            moved = step(self.teacher.denoised, xt, levels[here].clamp(min=least), levels[there])
            xt = torch.where(expand_t(here < j, xt), moved, xt)
        return xt

    def denoising_loss(self, data: Tensor, noise: Tensor) -> Tensor:
        """EDM's weighted loss of g(xt, t, t) at levels of its log-normal distribution: a scalar."""
        t = self.scheduler.sample_timesteps(data.shape[0], data.device)
        errors = (self.predict(self.scheduler.forward_process(data, noise, t), t) - data).square().flatten(1).mean(dim=1)
        return (self.edm_weight(t) * errors).mean()

    def time_grid(self, steps: int) -> Tensor:
        """EDM's levels for a sampler of one call per step, (steps + 1,). Raises ValueError for fewer than one step."""
        config = self.config
        return grid_of_calls(config.sigma_max, config.sigma_min, steps, self.device, config.rho)

    def sampling_step(self, x: Tensor, t: Tensor, t_next: Tensor, noise: Callable[[], Tensor], **kwargs: Any) -> Tensor:
        """gamma-sampling: jump to sqrt(1 - gamma^2) of the next level, then add gamma of it as noise."""
        gamma = self.config.gamma
        x = self.jump(x, t, math.sqrt(1 - gamma**2) * t_next, **kwargs).to(x.dtype)
        return x + expand_t(gamma * t_next, x) * noise() if gamma > 0 else x
