"""Devices, the precision that they compute in, and the random state of all of them."""

import argparse
import contextlib
import os
import platform
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from src.common.cli import UserError

GPUS = ("cuda", "mps", "xpu")  # NVIDIA's and AMD's, Apple's, Intel's
DEVICES = "cpu, cuda, cuda:0 ..., mps or xpu"
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}  # the dtype of each --precision but auto
AUTO_PRECISION = "CHALLENGE_PRECISION"  # the environment variable that says what auto is


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # seeds the GPUs too


def resolve_device(name: str, say: Callable[[str], None] = print) -> torch.device:
    """The device of this name: cpu, cuda, cuda:0 ..., mps, xpu. Where this machine lacks it, says so and gives the CPU.

    Raises UserError for a name that is none, and for devices that torch knows and this project cannot use, such as meta.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}; expected {DEVICES}") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type not in GPUS:
        raise UserError(f"device {name!r} is known to torch, but cannot be used here; expected {DEVICES}")
    number, count = int(name.partition(":")[2] or 0), device_count(device.type)  # torch keeps 8 bits of the number
    if number < count:
        return device
    kind = device.type.upper()
    say(f"no {kind} device {f'{number}, there are {count}' if count else 'found'}: running on the CPU")
    return torch.device("cpu")


def device_count(kind: str) -> int:
    """How many devices of a kind of GPUS this machine has that torch can use."""
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a driver that is absent
        module = torch.get_device_module(kind)
        return module.device_count() if module.is_available() else 0


def device_name(device: torch.device) -> str:
    """What the device is, in the words of its maker; of the CPU and mps, which have none, what the system says."""
    if device.type in ("cuda", "xpu"):
        return torch.get_device_module(device).get_device_name(device)
    return f"{device} ({platform.processor()})"


def synchronize(device: torch.device) -> None:
    """Return when the device has computed all that it was given."""
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


@contextlib.contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """After the block torch's global generators of the CPU and of this device are as they were before it."""
    place = () if device.type == "mps" else (device,)  # it has one, which is not named
    module = None if device.type == "cpu" else torch.get_device_module(device)
    cpu_state, state = torch.get_rng_state(), module and module.get_rng_state(*place)
    try:
        yield
    finally:
        torch.set_rng_state(cpu_state)
        if module:
            module.set_rng_state(state, *place)


def float64_device(device: torch.device) -> torch.device:
    """Where what is on a device can be computed in float64: there, or on the CPU for mps, which has none."""
    return torch.device("cpu") if device.type == "mps" else device


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 matrices itself, so that it is faster than float32; unknown of mps and xpu."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(words & {"amx_bf16", "avx512_bf16", "bf16"})


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """auto | bf16 | fp32 -> the dtype of the network's matrix products.

    auto is what the environment variable CHALLENGE_PRECISION says, or else bf16 where the processor has it.

    Raises UserError where the variable says neither bf16 nor fp32.
    """
    if name == "auto" and not (name := os.environ.get(AUTO_PRECISION)):
        return torch.bfloat16 if has_native_bfloat16(device) else torch.float32
    if name not in PRECISIONS:
        raise UserError(f"{AUTO_PRECISION}={name}: expected {' or '.join(PRECISIONS)}; mend or unset the variable")
    return PRECISIONS[name]


def add_precision_flag(parser: argparse._ActionsContainer, text: str = "bf16 where the processor has it") -> None:
    """Add --precision. text: what auto means."""
    parser.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto", help=text)


def precision_name(dtype: torch.dtype) -> str:
    """float32, bfloat16."""
    return str(dtype).removeprefix("torch.")


def precision_flag(name: str) -> str:
    """The --precision of a precision_name: bfloat16 -> bf16. Raises UserError for another name."""
    flags = {precision_name(dtype): flag for flag, dtype in PRECISIONS.items()}
    if name not in flags:
        raise UserError(f"unknown precision {name!r}; expected {' or '.join(flags)}")
    return flags[name]


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """The autocast context of this dtype; for float32 a context that does nothing."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def peak_memory(device: torch.device) -> int | None:
    """The largest number of bytes held so far: on a GPU by its tensors, else by the process. None where nobody says it."""
    if device.type in ("cuda", "xpu"):
        return torch.get_device_module(device).max_memory_allocated(device)
    if device.type == "mps":
        return None
    try:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
