"""Steps along a teacher's probability flow, in the coordinates x = data + sigma noise that all teachers can be asked in."""

import torch

from src.methods._base import Method
from src.utils import expand_t


def slope(teacher: Method, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """dx / dsigma of the teacher's probability flow at x (B, ...) and sigma (B,) above 0 (EDM, arXiv:2206.00364, eq. 3)."""
    return (x - teacher.denoised(x, sigma)) / expand_t(sigma, x)


@torch.no_grad()
def euler_step(teacher: Method, x: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
    """One call of the teacher: from x (B, ...) at noise levels sigma (B,) to sigma_next (B,), which may be 0. This is DDIM."""
    return x + expand_t(sigma_next - sigma, x) * slope(teacher, x, sigma)


@torch.no_grad()
def heun_step(teacher: Method, x: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
    """Two calls of the teacher, of second order; where sigma_next is 0 it is an Euler step (EDM, algorithm 1)."""
    start = slope(teacher, x, sigma)
    reached = x + expand_t(sigma_next - sigma, x) * start
    end = torch.where(expand_t(sigma_next > 0, x), slope(teacher, reached, sigma_next.clamp(min=1e-6)), start)
    return x + expand_t(sigma_next - sigma, x) * (start + end) / 2
