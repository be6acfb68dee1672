"""The rate of matrix products that a device reaches, which shares of peak are measured against."""

import time

import torch


def matrix_peak(device: str | torch.device, dtype: torch.dtype, seconds: float = 2) -> float:
    """FLOP/s of the fastest square matrix product found in about `seconds`, over three sizes; compilation not counted."""
    device = torch.device(device)
    sizes = (1024, 2048, 4096) if device.type == "cpu" else (4096, 8192, 16384)
    return max(_best_rate(size, device, dtype, seconds / len(sizes)) for size in sizes)


def _best_rate(size: int, device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    result = a @ b  # the first product also prepares the library
    _synchronize(device)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        torch.matmul(a, b, out=result)
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
