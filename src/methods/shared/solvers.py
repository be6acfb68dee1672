"""The probability flow in x = data + sigma noise: grids of noise levels, solvers, and distances of where they end.

Solvers ask for denoised data alone, as every teacher gives it.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from src.common.options import Options, option
from src.methods.shared.karras_path import KARRAS_RHO
from src.methods.shared.method import Method
from src.methods.shared.student import Student
from src.utils import expand_t

Denoised = Callable[[Tensor, Tensor], Tensor]  # (x, sigma (B,)) -> data expected at x = data + sigma noise
ORDERS = {"euler": 1, "dpmpp": 2}  # of the solvers an option may name
DISTANCES = ("huber", "l2", "lpips")
LPIPS_SIZE = 64  # least height and width that its features are made for here
HUBER_C = 0.00054  # iCT's constant (arXiv:2310.14189, sec. 3.3), for a mean over values instead of a sum


def karras_grid(sigma_max: float, sigma_min: float, steps: int, device: torch.device | str, rho: float = KARRAS_RHO) -> Tensor:
    """Noise levels of a sampler in `steps` steps, from sigma_max to 0, both exactly included: (steps + 1,), float32.

    The last but one is sigma_min where there are two steps or more. Source: EDM (arXiv:2206.00364), eq. 5.
    """
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = torch.linspace(start, end, steps, dtype=torch.float64) ** rho
    levels[0] = sigma_max
    return torch.cat([levels, torch.zeros(1)]).float().to(device)


def grid_of_calls(
    sigma_max: float, sigma_min: float, calls: int, device: torch.device | str, rho: float = KARRAS_RHO
) -> Tensor:
    """Noise levels (calls + 1,), float32, from sigma_max to 0, both included, for a solver of one call per step.

    They are EDM's grid of one step more, without sigma_min: the step from there changes an image by less than 8 bits can
    hold, and would waste one of few calls. Raises ValueError where calls is below 1.
    """
    if calls < 1:
        raise ValueError(f"expected at least 1 sampling step, got {calls}")
    levels = karras_grid(sigma_max, sigma_min, calls + 1, device, rho)
    return torch.cat([levels[:-2], levels[-1:]])


def solve(denoised: Denoised, x: Tensor, levels: Tensor, order: int, inputs: Tensor | None = None) -> list[Tensor]:
    """Follow the flow from x (B, ...) at levels[0] down to levels[-1], which is 0: the states at all levels, x among them.

    Order 1 is Euler's method in sigma, which is DDIM; order 2 is DPM-Solver++ (2M) (Lu et al., arXiv:2211.01095), a multistep
    method in ln sigma. Both call denoised once per step. The first and the last step are of order 1.

    Args:
        levels: (steps + 1,), falling.
        inputs: (steps,), the levels that denoised is given; those of the states by default.
    """
    steps = len(levels) - 1
    inputs = levels[:-1] if inputs is None else inputs
    states, before = [x], None
    for i in range(steps):
        data = denoised(x, inputs[i].expand(x.shape[0])).to(x.dtype)
        estimate = data
        if order == 2 and 0 < i < steps - 1:
            ahead, behind = (levels[i] / levels[i + 1]).log(), (levels[i - 1] / levels[i]).log()
            estimate = data + ahead / (2 * behind) * (data - before)
        x = estimate + expand_t((levels[i + 1] / levels[i]).expand(x.shape[0]), x) * (x - estimate)
        states.append(x)
        before = data
    return states


def slope(denoised: Denoised, x: Tensor, sigma: Tensor) -> Tensor:
    """dx / dsigma of a teacher's probability flow at x (B, ...) and sigma (B,) above 0 (EDM, arXiv:2206.00364, eq. 3)."""
    return (x - denoised(x, sigma)) / expand_t(sigma, x)


@torch.no_grad()
def euler_step(denoised: Denoised, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """One call of the teacher: from x (B, ...) at noise levels sigma (B,) to sigma_next (B,), which may be 0. This is DDIM."""
    return x + expand_t(sigma_next - sigma, x) * slope(denoised, x, sigma)


@torch.no_grad()
def heun_step(denoised: Denoised, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Two calls of the teacher, of second order; where sigma_next is 0 it is an Euler step (EDM, algorithm 1)."""
    start = slope(denoised, x, sigma)
    reached = x + expand_t(sigma_next - sigma, x) * start
    end = torch.where(expand_t(sigma_next > 0, x), slope(denoised, reached, sigma_next.clamp(min=1e-6)), start)
    return x + expand_t(sigma_next - sigma, x) * (start + end) / 2


def distance(name: str, ours: Tensor, theirs: Tensor, lpips: nn.Module | None = None) -> Tensor:
    """The distance (B,) of ours and theirs, both (B, ...).

    "l2" is the mean squared difference of an image's values; "huber", the pseudo-Huber distance, is about the root of that;
    "lpips" is what that network, from load_lpips, says of images (B, 3, H, W) in [-1, 1].

    Raises ValueError where images are too small for LPIPS.
    """
    if name == "lpips":
        if ours.ndim != 4 or min(ours.shape[-2:]) < LPIPS_SIZE:
            least, shape = f"{LPIPS_SIZE}x{LPIPS_SIZE}", tuple(ours.shape[1:])
            raise ValueError(f"distance lpips needs images of {least} or more, got {shape}: take huber or l2")
        return lpips(ours.float(), theirs.float()).flatten()
    squares = (ours - theirs).square().flatten(1).mean(dim=1)
    return squares if name == "l2" else pseudo_huber(squares, HUBER_C)


def pseudo_huber(squares: Tensor, c: float) -> Tensor:
    """sqrt(squares + c^2) - c of squared errors: their square where they are far below c, their size far above it.

    c is at least 1e-6, since the root has no slope at 0.
    """
    c = max(c, 1e-6)
    return (squares + c**2).sqrt() - c


@dataclass
class DistanceOptions(Options):
    distance: str = option("huber", "lpips, the authors', needs that package and 64x64", choices=DISTANCES)


class WithDistance(Student):
    """A student that measures how far it ends from its teacher; its Config extends DistanceOptions."""

    def set_teacher(self, teacher: Method) -> None:
        super().set_teacher(teacher)
        if self.config.distance == "lpips":
            self.train_only["lpips"] = load_lpips(self.device)

    def distance(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """The distance (B,) of two batches (B, ...)."""
        return distance(self.config.distance, ours, theirs, self.train_only.get("lpips"))


def load_lpips(device: torch.device) -> nn.Module:
    """LPIPS on VGG features (Zhang et al., arXiv:1801.03924), frozen.

    Raises ValueError where its package is absent, or the weights of VGG can be neither found nor downloaded.
    """
    try:
        package = importlib.import_module("lpips")
    except ModuleNotFoundError as error:
        raise ValueError("distance lpips needs the package lpips: pip install lpips") from error
    try:
        lpips = package.LPIPS(net="vgg", verbose=False)
    except OSError as error:  # of urllib's own kind where there is no network
        raise ValueError(f"distance lpips needs VGG's weights, which torchvision could not download: {error}") from error
    return lpips.eval().requires_grad_(False).to(device)
