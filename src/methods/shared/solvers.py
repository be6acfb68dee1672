"""Solvers of the probability flow in x = data + sigma noise: they ask for denoised data alone, as every teacher gives it."""

from collections.abc import Callable

import torch

from src.utils import expand_t

Denoised = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (x, sigma (B,)) -> data expected at x = data + sigma noise
ORDERS = {"euler": 1, "dpmpp": 2}  # of the solvers an option may name


def solve(
    denoised: Denoised,
    x: torch.Tensor,
    levels: torch.Tensor,
    order: int,
    asked: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """Follow the flow from x (B, ...) at levels[0] down to levels[-1], which is 0: the states at all levels, x among them.

    Order 1 is Euler's method in sigma, which is DDIM; order 2 is DPM-Solver++ (2M) (Lu et al., arXiv:2211.01095), a multistep
    method in ln sigma. Both call denoised once per step. The first and the last step are of order 1.

    Args:
        denoised: of the teacher.
        levels: (steps + 1,), falling.
        asked: (steps,), the levels that denoised is told; those of the states if not given.
    """
    steps = len(levels) - 1
    asked = levels[:-1] if asked is None else asked
    states, before = [x], None
    for i in range(steps):
        data = denoised(x, asked[i].expand(x.shape[0])).to(x.dtype)
        estimate = data
        if order == 2 and 0 < i < steps - 1:
            ahead, behind = (levels[i] / levels[i + 1]).log(), (levels[i - 1] / levels[i]).log()
            estimate = data + ahead / (2 * behind) * (data - before)
        x = estimate + expand_t((levels[i + 1] / levels[i]).expand(x.shape[0]), x) * (x - estimate)
        states.append(x)
        before = data
    return states


def slope(denoised: Denoised, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """dx / dsigma of a teacher's probability flow at x (B, ...) and sigma (B,) above 0 (EDM, arXiv:2206.00364, eq. 3)."""
    return (x - denoised(x, sigma)) / expand_t(sigma, x)


@torch.no_grad()
def euler_step(denoised: Denoised, x: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
    """One call of the teacher: from x (B, ...) at noise levels sigma (B,) to sigma_next (B,), which may be 0. This is DDIM."""
    return x + expand_t(sigma_next - sigma, x) * slope(denoised, x, sigma)


@torch.no_grad()
def heun_step(denoised: Denoised, x: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
    """Two calls of the teacher, of second order; where sigma_next is 0 it is an Euler step (EDM, algorithm 1)."""
    start = slope(denoised, x, sigma)
    reached = x + expand_t(sigma_next - sigma, x) * start
    end = torch.where(expand_t(sigma_next > 0, x), slope(denoised, reached, sigma_next.clamp(min=1e-6)), start)
    return x + expand_t(sigma_next - sigma, x) * (start + end) / 2
