"""Devices, the precision that they compute in, and the random state of all of them."""

import argparse
import contextlib
import os
import random
import warnings
from pathlib import Path

import numpy as np
import torch

from src.common.cli import UserError

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}  # the dtype of each --precision but auto
AUTO_PRECISION = "CHALLENGE_PRECISION"  # the environment variable that says what auto is


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # seeds CUDA too


def resolve_device(name: str) -> torch.device:
    """The device of this name; where cuda is asked for and absent, says so and gives the CPU."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}; expected cpu, cuda, cuda:0 ... or mps") from error
    if device.type == "cuda":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a driver that is absent is what the next line says
            available = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not available:
            print("no CUDA device found: running on the CPU")
            return torch.device("cpu")
        if (device.index or 0) >= available:
            raise UserError(f"{name} was asked for, but this machine has {available} CUDA device(s)")
    return device


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 matrices itself, so that it is faster than float32."""
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

    auto is what the environment variable CHALLENGE_PRECISION says, and bf16 where the processor has it if that is not set.

    Raises UserError where the variable says neither bf16 nor fp32.
    """
    if name != "auto":
        return PRECISIONS[name]
    told = os.environ.get(AUTO_PRECISION)
    if not told:
        return torch.bfloat16 if has_native_bfloat16(device) else torch.float32
    if told not in PRECISIONS:
        raise UserError(f"{AUTO_PRECISION}={told}: expected {' or '.join(PRECISIONS)}; mend or unset the variable")
    return PRECISIONS[told]


def add_precision_flag(parser: argparse._ActionsContainer, text: str = "bf16 where the processor has it") -> None:
    """Add --precision. text: what auto means."""
    parser.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto", help=text)


def precision_name(dtype: torch.dtype) -> str:
    """float32, bfloat16."""
    return str(dtype).removeprefix("torch.")


def precision_flag(name: str) -> str:
    """The --precision of what precision_name says: bfloat16 -> bf16. Raises UserError where it says no such thing."""
    flags = {precision_name(dtype): flag for flag, dtype in PRECISIONS.items()}
    if name not in flags:
        raise UserError(f"unknown precision {name!r}; expected {' or '.join(flags)}")
    return flags[name]


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """The autocast context of this dtype; for float32 a context that does nothing."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def peak_memory(device: torch.device) -> int | None:
    """The largest number of bytes held so far: on a GPU by its tensors, else by the process. None where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(told["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
