"""When to look: random times for training and fixed grids for sampling."""

import math

import torch

KARRAS_RHO = 7.0
TIME_DISTRIBUTIONS = ("uniform", "logit_normal", "u_shaped")
U_SHAPE = 4.0  # a of the u_shaped times, as in their paper


def sample_unit_times(
    distribution: str, batch_size: int, device: torch.device | str, logit_mean: float = 0.0, logit_std: float = 1.0
) -> torch.Tensor:
    """Draw times (B,) in (0, 1), float32.

    distribution: "uniform"; "logit_normal", the sigmoid of a normal with logit_mean and logit_std (Esser et al.,
    arXiv:2403.03206), which looks more often at the middle of the path; or "u_shaped", which looks more often at both of its
    ends, of a density proportional to exp(a t) + exp(a (1 - t)) with a = 4 (Lee et al., arXiv:2405.20320, sec. 4).
    """
    if distribution == "uniform":
        return torch.rand(batch_size, device=device)
    if distribution == "logit_normal":
        return torch.sigmoid(logit_mean + logit_std * torch.randn(batch_size, device=device))
    if distribution == "u_shaped":  # the inverse of its distribution function
        uniform = torch.rand(batch_size, device=device)
        return 0.5 + torch.asinh((2 * uniform - 1) * math.sinh(U_SHAPE / 2)) / U_SHAPE
    raise ValueError(f"unknown time distribution {distribution!r}; expected one of {', '.join(TIME_DISTRIBUTIONS)}")


def uniform_grid(start: float, end: float, steps: int, device: torch.device | str) -> torch.Tensor:
    """steps + 1 equally spaced times from start to end, both exactly included: (steps + 1,), float32."""
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    return torch.linspace(start, end, steps + 1, device=device)


def karras_grid(
    sigma_max: float, sigma_min: float, steps: int, device: torch.device | str, rho: float = KARRAS_RHO
) -> torch.Tensor:
    """Noise levels of a sampler in `steps` steps, from sigma_max to 0, both exactly included: (steps + 1,), float32.

    The last but one is sigma_min where there are two steps or more. Source: EDM (arXiv:2206.00364), eq. 5.
    """
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = torch.linspace(start, end, steps, dtype=torch.float64) ** rho
    levels[0] = sigma_max
    return torch.cat([levels, torch.zeros(1)]).float().to(device)


def split_batch(batch_size: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide the images of a batch between two losses: indices of `share` of them, and of the rest, both int64 on the CPU.

    The share is met to one image, rounded up or down at random so that it is right on average, and its images are spread
    evenly over the batch: micro-batches of a multiple of 1 / share images take the same images as the whole batch. The two
    sizes are known without waiting for the device.
    """
    marks = (torch.arange(batch_size + 1, dtype=torch.float64) * share + torch.rand(()).item()).floor()
    chosen = marks[1:] > marks[:-1]
    return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()
