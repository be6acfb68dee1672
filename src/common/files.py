"""Files written whole or not at all, and files read with errors a user can act on."""

import contextlib
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from src.common.cli import UserError

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def cache_dir() -> Path:
    """Where prepared arrays, weights and features are kept: $CHALLENGE_CACHE, by default data/cache of the project."""
    return Path(os.environ.get("CHALLENGE_CACHE") or PROJECT_ROOT / "data" / "cache")


@contextlib.contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside path for a file or folder, and rename it to path if the block ends well.

    What stood at path before is replaced. Nothing half-written is left behind.

    Raises UserError where the disk refuses (full, read-only, no permission).
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if partial.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def save_torch(value: Any, path: str | Path) -> None:
    """torch.save that leaves either the whole file, safely on the disk, or none.

    Raises UserError, telling how much was needed, where the disk refuses.
    """
    with write_whole(path) as partial:
        try:
            torch.save(value, partial)
            with open(partial, "r+b") as file:
                os.fsync(file.fileno())
        except (RuntimeError, OSError) as error:  # torch's own writer hides the reason in a RuntimeError
            needed, free = tensor_bytes(value) / 1e6, shutil.disk_usage(partial.parent).free / 1e6
            reason = str(error).splitlines()[0]
            raise OSError(f"{reason} (needed {needed:,.1f} MB, {free:,.1f} MB are free on the disk)") from error


def tensor_bytes(value: Any) -> int:
    """The bytes of all tensors in nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        value = value.values()
    return sum(map(tensor_bytes, value)) if isinstance(value, Iterable) and not isinstance(value, str) else 0


def load_torch(path: str | Path, map_location: str | torch.device = "cpu") -> Any:
    """torch.load with weights_only=True. Raises UserError where path is absent, damaged or holds more than tensors."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about an odd pickle, which ends in the error below
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: refused, it is not a plain checkpoint of tensors (it may run code when loaded)") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]  # an empty file's EOFError has no words
        raise UserError(f"{path}: damaged or not a checkpoint ({reason})") from error


def load_json(path: str | Path) -> Any:
    """Parse a JSON file. Raises UserError where it is absent or malformed."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file {path}")
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: malformed JSON ({error})") from error


def load_json_lines(path: str | Path) -> list[Any]:
    """The values of a file of one JSON value a line, as a log is; of an absent file none.

    A last line that a killed run left unfinished is dropped. Raises UserError for another that is damaged.
    """
    path = Path(path)
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise UserError(f"{path}: line {number} is damaged: {error}") from error
    return rows
