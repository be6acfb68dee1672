"""What a benchmark is run on, and the rate of matrix products that it reaches, which shares of peak are measured against."""

import platform
import time
from datetime import date

import torch

from src.common.devices import precision_name, synchronize


def machine(device: torch.device) -> str:
    """When and on what: the first line of a benchmark."""
    return f"{date.today()}, torch {torch.__version__}, {device}, {platform.machine()}, {torch.get_num_threads()} threads"


def network_peak(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """The peak FLOP/s of the format in which a network of this dtype is computed, and that format's name.

    The name is precision_name's, but for float32 on GPUs whose convolutions are made in TF32, as PyTorch has it by default.
    """
    tf32 = (
        device.type == "cuda"
        and dtype == torch.float32
        and torch.backends.cudnn.allow_tf32
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )
    if not tf32:
        return matrix_peak(device, dtype), precision_name(dtype)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return matrix_peak(device, dtype), "TF32"
    finally:
        torch.set_float32_matmul_precision(before)


def matrix_peak(device: str | torch.device, dtype: torch.dtype, seconds: float = 2) -> float:
    """FLOP/s of the fastest square matrix product found in about `seconds`, over three sizes; compilation not counted."""
    device = torch.device(device)
    sizes = (1024, 2048, 4096) if device.type == "cpu" else (4096, 8192, 16384)
    return max(_best_rate(size, device, dtype, seconds / len(sizes)) for size in sizes)


def _best_rate(size: int, device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    result = a @ b  # the first product also prepares the library
    synchronize(device)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        torch.matmul(a, b, out=result)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
