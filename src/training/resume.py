"""resume.pt: everything that changes while a run trains, written so that a crash at any moment loses nothing."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from src.common.cli import UserError
from src.common.files import load_torch, save_torch
from src.runs.folder import RESUME, RESUME_PREVIOUS


def write_resume(state: dict[str, Any], run_dir: Path) -> None:
    """Write resume.pt with a checksum, whole or not at all; the one before it becomes resume_previous.pt."""
    path, new = run_dir / RESUME, run_dir / f"{RESUME}.new"
    save_torch({**state, "sha256": checksum(state)}, new)
    if path.exists():
        os.replace(path, run_dir / RESUME_PREVIOUS)
    os.replace(new, path)


def read_resume(run_dir: Path) -> dict[str, Any]:
    """What write_resume wrote last. A damaged resume.pt is named, and the one before it read instead.

    Raises UserError where neither is there or sound.
    """
    reasons = []
    for path in (run_dir / RESUME, run_dir / RESUME_PREVIOUS):
        if not path.is_file():
            continue
        try:
            return _read_checked(path)
        except UserError as error:
            reasons.append(str(error))
            print(f"warning: {error}")
    raise UserError(f"{run_dir} holds nothing to continue from: {'; '.join(reasons) or f'no {RESUME}'}")


def checksum(value: Any) -> str:
    """SHA-256 over all tensors and plain values in nested dicts and lists, in order."""
    sha = hashlib.sha256()
    for leaf in _leaves(value):
        if isinstance(leaf, torch.Tensor):
            sha.update(f"{tuple(leaf.shape)} {leaf.dtype}".encode())
            sha.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        else:
            sha.update(repr(leaf).encode())
    return sha.hexdigest()


def _read_checked(path: Path) -> dict[str, Any]:
    saved = load_torch(path)
    if not isinstance(saved, dict) or "sha256" not in saved:
        raise UserError(f"{path}: damaged or not a file to resume from (no checksum)")
    expected = saved.pop("sha256")
    if checksum(saved) != expected:
        raise UserError(f"{path}: damaged (its checksum differs)")
    return saved


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
