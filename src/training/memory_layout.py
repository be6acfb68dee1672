"""Which memory layout trains a network faster on this device: measured once, then remembered."""

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from src.common.devices import autocast, device_name, synchronize
from src.common.files import cache_dir, load_json, save_json
from src.common.networks import takes_condition

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
BUDGET = 1.0  # seconds of one timed pass


def apply_layout(model: nn.Module, layout: str) -> None:
    """Bring the model's weights into the layout "contiguous" or "channels_last"."""
    model.to(memory_format=LAYOUTS[layout])


def faster_layout(network: nn.Module, image_shape: Sequence[int], batch_size: int, dtype: torch.dtype) -> str:
    """The layout in which a forward and backward pass of the network takes less time: "contiguous" or "channels_last".

    The measurement (seconds at most) is kept in the cache by device, precision and network, so that runs of the same command
    on the same machine agree. Leaves the network in either layout, without gradients.

    Args:
        network: called as network(x, timestep) or with a condition, as the challenge's.
        image_shape: (3, H, W), or that of other samples; the layouts are one where no weight has four dimensions.
        batch_size: images a pass; fewer are timed where so many take long.
    """
    device = next(network.parameters()).device
    if all(value.ndim < 4 for value in network.parameters()):
        return "contiguous"
    name = device_name(device) if device.type != "cpu" else f"{_cpu_name()} x{torch.get_num_threads()}"
    shapes = sorted((key, tuple(value.shape)) for key, value in network.named_parameters())
    about = json.dumps([name, torch.__version__, str(dtype), list(image_shape), batch_size, shapes])
    path = cache_dir() / f"layout-{hashlib.sha256(about.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        return load_json(path)["layout"]

    count = min(batch_size, max(1, int(BUDGET / _seconds(network, image_shape, 1, dtype))))
    seconds = {layout: float("inf") for layout in LAYOUTS}
    for repeat in range(3):
        for layout in LAYOUTS:
            apply_layout(network, layout)
            taken = _seconds(network, image_shape, count, dtype)
            if repeat:  # the first pass of each prepares the kernels
                seconds[layout] = min(seconds[layout], taken)
    best = min(seconds, key=seconds.__getitem__)
    save_json({"layout": best, "device": name, "images": count, "seconds": seconds}, path)
    return best


def _seconds(network: nn.Module, image_shape: Sequence[int], count: int, dtype: torch.dtype) -> float:
    """The time of one forward and backward pass of `count` random images."""
    device = next(network.parameters()).device
    frozen = not any(parameter.requires_grad for parameter in network.parameters())
    x = torch.randn(count, *image_shape, device=device, requires_grad=frozen)  # a frozen network is only passed through
    t = torch.rand(count, device=device)
    start = time.perf_counter()
    with autocast(device, dtype):
        out = network(x, t, t) if takes_condition(network) else network(x, t)
        loss = out.float().square().mean()
    loss.backward()
    loss.item()
    synchronize(device)
    network.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def _cpu_name() -> str:
    """The processor's model and flags where the system tells them: machines of one model may differ in what is switched on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    return "".join(value for key, value in told.items() if key.strip() in ("model name", "flags", "Features"))
