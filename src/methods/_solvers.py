"""A solver of the probability flow that asks for denoised data alone and can be differentiated through."""

from collections.abc import Callable

import torch

from src.methods._schedules import KARRAS_RHO, karras_grid
from src.utils import expand_t

ORDERS = {"euler": 1, "dpmpp": 2}  # of the solvers an option may name


def grid_of_calls(
    sigma_max: float, sigma_min: float, calls: int, device: torch.device | str, rho: float = KARRAS_RHO
) -> torch.Tensor:
    """Noise levels (calls + 1,), float32, from sigma_max to 0, both included, for a solver of one call a step.

    They are EDM's grid (arXiv:2206.00364, eq. 5) of one step more, without sigma_min: the step from there changes an image by
    less than 8 bits can hold, and would waste one of few calls. Raises ValueError where calls is below 1.
    """
    if calls < 1:
        raise ValueError(f"expected at least 1 sampling step, got {calls}")
    levels = karras_grid(sigma_max, sigma_min, calls + 1, device, rho)
    return torch.cat([levels[:-2], levels[-1:]])


def solve(
    denoised: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    levels: torch.Tensor,
    order: int,
    asked: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """Follow the flow from x (B, ...) at levels[0] down to levels[-1], which is 0: the states at all levels, x among them.

    Order 1 is Euler's method in sigma, which is DDIM; order 2 is DPM-Solver++ (2M) (Lu et al., arXiv:2211.01095), a multistep
    method in ln sigma. Both call denoised once a step. The first and the last step are of order 1.

    Args:
        denoised: (x, sigma (B,)) -> the data expected at x = data + sigma noise.
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
