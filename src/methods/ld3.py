"""LD3: learning to discretize denoising diffusion ODEs (Tong et al., ICLR 2025, arXiv:2405.15506)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from src.common.noise import draw_noise
from src.common.options import option
from src.methods.shared.karras_path import KARRAS_RHO, Denoiser, KarrasPathScheduler
from src.methods.shared.method import Method, register
from src.methods.shared.solvers import ORDERS, DistanceOptions, WithDistance, grid_of_calls, solve
from src.utils import expand_t


@register("ld3")
class LD3(WithDistance, Denoiser):
    """Keep the teacher's network and learn only the noise levels at which a solver of few calls visits it.

    Each number of calls in nfe_list has a grid of its own; all others use EDM's, where the learned ones start too. Calls are
    steps of equal length in sigma^(1/7) times a softmax, so that levels always fall. With `decoupled` the levels that the
    network is given are learned as well, apart from those of the states. The loss is the distance to the teacher's own solution
    in teacher_steps calls from the same noise; with r above 0, from the best noise within r of it. An iteration costs
    sum(nfe_list) calls with a backward pass in x, each computed twice so that only one's activations are held, and
    teacher_steps calls without.
    """

    few_calls, independent_rows, cost = True, False, 14.0
    renamed_options = {"lr_scale": "parameter_scale"}  # noqa: RUF012

    @dataclass
    class Config(DistanceOptions, KarrasPathScheduler.Config):
        nfe_list: list[int] = option([2, 4], "numbers of calls that get a learned grid", minimum=2)  # noqa: RUF009
        solver: str = option("dpmpp", "of student and teacher; dpmpp is of second order", choices=tuple(ORDERS))
        teacher_steps: int = option(20, "calls of the teacher's solution", minimum=2)
        decoupled: bool = option(True, "learn the levels that the network is given, too")
        r: float = option(0.0, "how far the student's noise may be from the teacher's (Euclidean norm)", minimum=0)
        parameter_scale: float = option(50.0, "factor of the learned numbers: they move so many times faster", above=0)

        def validate(self) -> None:
            super().validate()
            if not self.nfe_list or len(set(self.nfe_list)) < len(self.nfe_list):
                raise ValueError(f"expected nfe_list of different numbers of at least 2, got {list(self.nfe_list)}")
            if self.teacher_steps < max(self.nfe_list):
                raise ValueError(f"expected teacher_steps of at least {max(self.nfe_list)}, got {self.teacher_steps}")

    def _setup(self, **kwargs: Any) -> None:
        super()._setup(**kwargs)
        self.network.eval().requires_grad_(False)
        zeros = {str(nfe): nn.Parameter(torch.zeros(nfe)) for nfe in self.config.nfe_list}
        self.gaps = nn.ParameterDict(zeros)  # logits of the steps' lengths
        self.shifts = nn.ParameterDict(
            {nfe: nn.Parameter(torch.zeros_like(value)) for nfe, value in zeros.items() if self.config.decoupled}
        )  # of the logarithm of the level that the network is given

    def train(self, mode: bool = True) -> "LD3":
        """The network never drops out: it is the teacher's."""
        super().train(mode)
        self.network.eval()
        return self

    def set_teacher(self, teacher: Method) -> None:
        """Learn from this model and take its weights over; ValueError also where its network's output means another thing."""
        if teacher.parameterization != self.parameterization:
            raise ValueError(
                f"{type(self).__name__} keeps its teacher's network and needs one that predicts {self.parameterization!r}, as "
                f"method edm does with the same options; this one predicts {teacher.parameterization!r}"
            )
        super().set_teacher(teacher)
        self.network.load_state_dict(teacher.network.state_dict())

    def optim_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"network": [*self.gaps.parameters(), *self.shifts.parameters()]}

    def time_grid(self, calls: int) -> Tensor:
        """The noise levels of a solver of `calls` calls: (calls + 1,), down to 0."""
        return self.grid(calls)[0]

    def grid(self, calls: int) -> tuple[Tensor, Tensor]:
        """The noise levels of a solver of `calls` calls, (calls + 1,) down to 0, and the network's, (calls,)."""
        config, nfe = self.config, str(calls)
        if nfe not in self.gaps:
            levels = grid_of_calls(config.sigma_max, config.sigma_min, calls, self.device)
            return levels, levels[:-1]
        way = (config.parameter_scale * self.gaps[nfe]).softmax(0).cumsum(0)[:-1]
        start, end = config.sigma_max ** (1 / KARRAS_RHO), config.sigma_min ** (1 / KARRAS_RHO)
        ends = torch.tensor([config.sigma_max, 0.0], device=way.device)
        levels = torch.cat([ends[:1], (start + way * (end - start)) ** KARRAS_RHO, ends[1:]])
        if not config.decoupled:
            return levels, levels[:-1]
        return levels, levels[:-1] * (config.parameter_scale * self.shifts[nfe]).exp()

    def solution(self, noise: Tensor, calls: int, denoised: Callable | None = None) -> list[Tensor]:
        """The student's states from noise (B, ...) to its sample, by the grid of this number of calls."""
        levels, inputs = self.grid(calls)
        return solve(denoised or self.predict, levels[0] * noise, levels, ORDERS[self.config.solver], inputs)

    def compute_loss(self, data: Tensor, noise: Tensor, **kwargs: Any) -> Tensor:
        """The distance of the student's and the teacher's samples from noise (B, ...), mean over nfe_list: a scalar.

        Of data only the shape counts.
        """
        end = self.teacher_solution(noise)
        return torch.stack([self.losses(noise, end, calls).mean() for calls in self.config.nfe_list]).mean()

    @torch.no_grad()
    def teacher_solution(self, noise: Tensor) -> Tensor:
        config = self.config
        levels = grid_of_calls(config.sigma_max, config.sigma_min, config.teacher_steps, noise.device)
        return solve(self.teacher.denoised, levels[0] * noise, levels, ORDERS[config.solver])[-1]

    def losses(self, noise: Tensor, end: Tensor, calls: int) -> Tensor:
        """The distance (B,) of the student's sample from end (B, ...): the hard loss, or the soft one where r is above 0.

        The best noise within r is found by one step against the gradient, which ends where the loss would be 0 if it fell on
        linearly, and goes no farther than r. That noise gets no gradient, as in the paper.
        """
        measured = partial(self.distance, theirs=end)
        denoised = partial(checkpoint, self.predict, use_reentrant=False)
        if self.config.r > 0:
            noise = noise.detach().requires_grad_()
            values = measured(ours=self.solution(noise, calls, denoised)[-1])
            (slope,) = torch.autograd.grad(values.sum(), noise)
            norm = slope.flatten(1).norm(dim=1).clamp(min=1e-12)
            length = (values.detach() / norm).clamp(max=self.config.r)
            noise = (noise - expand_t(length / norm, noise) * slope).detach()
        return measured(ours=self.solution(noise, calls, denoised)[-1])

    @torch.no_grad()
    def sample(
        self,
        shape: tuple[int, ...],
        num_inference_timesteps: int = 20,
        return_traj: bool = False,
        verbose: bool = False,
        seeds: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Tensor | list[Tensor]:
        """Solve the flow in num_inference_timesteps network calls, on the grid learned for that number if there is one.

        Returns samples of `shape`, or with return_traj the list of all states. `seeds`, one per sample, fix each one's noise.
        Raises ValueError for fewer than one step.
        """
        noise = draw_noise(shape, self.device, seeds)
        states = self.solution(noise, num_inference_timesteps, partial(self.predict, **kwargs))
        return states if return_traj else states[-1]
