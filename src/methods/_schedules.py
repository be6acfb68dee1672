"""When to look: random times for training and fixed grids for sampling."""

import torch


def sample_unit_times(
    distribution: str, batch_size: int, device: torch.device | str, logit_mean: float = 0.0, logit_std: float = 1.0
) -> torch.Tensor:
    """Draw times (B,) in (0, 1), float32.

    distribution: "uniform"; or "logit_normal", the sigmoid of a normal with logit_mean and logit_std (Esser et al.,
    arXiv:2403.03206), which looks more often at the middle of the path.
    """
    if distribution == "uniform":
        return torch.rand(batch_size, device=device)
    if distribution == "logit_normal":
        return torch.sigmoid(logit_mean + logit_std * torch.randn(batch_size, device=device))
    raise ValueError(f"unknown time distribution {distribution!r}; expected uniform or logit_normal")


def uniform_grid(start: float, end: float, steps: int, device: torch.device | str) -> torch.Tensor:
    """steps + 1 equally spaced times from start to end, both exactly included: (steps + 1,), float32."""
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    return torch.linspace(start, end, steps + 1, device=device)
