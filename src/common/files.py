"""Files written whole or not at all, and files read with errors a user can act on."""

import contextlib
import errno
import hashlib
import json
import os
import pickle
import re
import secrets
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.common.cli import UserError
from src.common.locks import file_lock, is_locked

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PARTIAL = ".partial"  # ends the hidden name of what is being written; beside it lies its lock, PARTIAL + LOCK
LOCK = ".lock"


def cache_dir() -> Path:
    """Where prepared arrays, weights and features are kept: $CHALLENGE_CACHE, by default data/cache of the project."""
    return Path(os.environ.get("CHALLENGE_CACHE") or PROJECT_ROOT / "data" / "cache").expanduser()


class CannotWrite(UserError):
    """The disk refuses a file: it is full, gone, read-only, or not ours."""


@contextlib.contextmanager
def write_whole(path: str | Path, folder: bool = False) -> Iterator[Path]:
    """Give a temporary name beside path for a file, or a folder, and rename it to path if the block ends well.

    What stood at path before is replaced; a link is followed. Nothing half-written is left behind, also not of an earlier
    process that was killed while it wrote there. No other process has the same name, on whatever machine.

    Raises UserError, before the block if possible, where something else stands at path, and CannotWrite where the disk refuses.
    """
    try:
        path = check_output(path, folder)
        name = os.fsencode(path.name)[:190].decode(errors="ignore")  # with what is added still a name that a disk takes
        partial = path.with_name(f".{name}.{secrets.token_hex(6)}{PARTIAL}")
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, name)
        with file_lock(_beside(partial)):
            try:
                yield partial
                _put_in_place(partial, path)
            finally:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}{_other_place(path)}") from error


def _beside(partial: Path) -> Path:
    """The lock of what is being written."""
    return partial.with_name(partial.name + LOCK)


def _put_in_place(partial: Path, path: Path) -> None:
    """Rename partial to path, in one step; a folder that stood there is deleted when the new one is in its place."""
    if not (partial.is_dir() and path.is_dir()):
        os.replace(partial, path)
        return
    old = partial.with_name(f".old{partial.name}")
    with file_lock(_beside(old)):
        os.replace(path, old)
        try:
            os.replace(partial, path)
        except OSError:
            os.replace(old, path)
            raise
        shutil.rmtree(old)


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Delete what killed processes were writing in a folder by write_whole, under this name or any; of live ones nothing."""
    starts = (f".{name}.", f".old.{name}.") if name else (".",)
    names = {path.name.removesuffix(LOCK) for path in folder.iterdir() if path.name.endswith((PARTIAL, PARTIAL + LOCK))}
    for partial in (folder / found for found in names if found.startswith(starts)):
        if is_locked(_beside(partial)):
            continue
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)  # another process may be deleting it, too
        with contextlib.suppress(OSError):  # the same; or another user's
            partial.unlink(missing_ok=True)
            _beside(partial).unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Raise UserError where a file of this name could not be written: before the work that makes it."""
    folder = (path := check_output(path)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}{_other_place(path)}") from error


def _other_place(path: Path) -> str:
    """How to have a file of the cache or the project's folder written elsewhere, where the disk refuses it."""
    here = path.absolute()
    if cache_dir().absolute() in here.parents:
        return "; set the environment variable CHALLENGE_CACHE to a folder that can be written"
    return "; name another place for it on the command line (--help)" if PROJECT_ROOT in here.parents else ""


def check_output(path: str | Path, folder: bool = False) -> Path:
    """Where a file, or a folder, of this name is written: path, or what it is a link to.

    Raises UserError where something else stands there: a folder, a file, a device, a pipe.
    """
    path = Path(path)
    target = path.resolve() if path.is_symlink() else path
    if target.exists() and not (target.is_dir() if folder else target.is_file()):
        there = "a folder" if target.is_dir() else "a file" if target.is_file() else "no regular file"
        kind = "folder" if folder else "file"
        raise UserError(f"cannot write the {kind} {path}: {there} stands there; name another, or remove it")
    return target


def save_torch(value: Any, path: str | Path) -> None:
    """torch.save that leaves either the whole file, safely on the disk, or none. Raises CannotWrite where the disk refuses."""
    with write_whole(path) as partial:
        try:
            torch.save(value, partial)
            with open(partial, "r+b") as file:
                os.fsync(file.fileno())
        except (RuntimeError, OSError) as error:  # torch's own writer hides the reason in a RuntimeError
            needed, free = tensor_bytes(value) / 1e6, shutil.disk_usage(partial.parent).free / 1e6
            reason = str(error).splitlines()[0]
            raise OSError(f"{reason} (needed {needed:,.1f} MB, {free:,.1f} MB are free on the disk)") from error


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def tensor_bytes(value: Any) -> int:
    """The bytes of all tensors in nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        value = value.values()
    return sum(map(tensor_bytes, value)) if isinstance(value, Iterable) and not isinstance(value, str) else 0


def load_torch(path: str | Path, map_location: str | torch.device = "cpu") -> Any:
    """torch.load with weights_only=True: tensors, and NumPy's numbers and arrays.

    Raises UserError where path is absent, damaged, something else, or holds more than that.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    if what := _no_checkpoint(path):
        raise UserError(f"{path}: damaged or not a checkpoint: {what}")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_types()):
            warnings.simplefilter("ignore", UserWarning)  # about an odd pickle, which ends in the error below
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+) was not an allowed", str(error))
        holds = f"it holds a {named[1]}" if named else "it is not a plain checkpoint of tensors"
        todo = "save tensors and numbers alone, as model.state_dict() has them"
        raise UserError(f"{path}: refused, {holds} and may run code when loaded; {todo}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]  # an empty file's EOFError has no words
        raise UserError(f"{path}: damaged or not a checkpoint ({reason})") from error


def _no_checkpoint(path: Path) -> str:
    """What a file is that was taken for a checkpoint, and what to do; empty for one that may be a checkpoint."""
    with path.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start:
        return "the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself; fetch it with git lfs pull"
    if start[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page, such as a login or warning that came instead of a download"
    if start.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                if not any(name.endswith("data.pkl") for name in archive.namelist()):
                    return "it is a zip file of something else; if the checkpoint is in it, unpack it"
        except zipfile.BadZipFile:
            return "it is cut off or damaged; copy or download it again"
    return ""


def _numpy_types() -> list[Any]:
    """What pickles of NumPy's numbers and arrays name, under its names of before and after version 2."""
    core = np._core if hasattr(np, "_core") else np.core
    functions = [getattr(core.multiarray, name) for name in ("scalar", "_reconstruct")]
    named = [(function, f"numpy.{home}.multiarray.{function.__name__}") for function in functions for home in ("core", "_core")]
    numbers = (np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_)
    return [*named, np.dtype, np.ndarray, *(type(np.dtype(number)) for number in numbers)]


def read_text(path: str | Path) -> str:
    """The text of a user's file, UTF-8 with or without a byte order mark. Raises UserError for another encoding."""
    path = Path(path)
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is in UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8 ({error}); save it as UTF-8") from error


def save_json(value: Any, path: str | Path) -> None:
    """Write a value as indented JSON, whole or not at all. Raises CannotWrite where the disk refuses."""
    with write_whole(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")


def load_json(path: str | Path) -> Any:
    """Parse a JSON file. Raises UserError where it is absent or malformed."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file {path}")
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: malformed JSON ({error})") from error


def append_json_line(row: dict[str, Any], path: str | Path) -> None:
    """Append an object to a file of one JSON object a line. Raises CannotWrite where the disk refuses."""
    try:
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror}") from error


def load_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a file of one JSON object a line. A damaged last line is dropped, other damaged ones with a warning."""
    path = Path(path)
    lines = path.read_bytes().splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:  # UnicodeDecodeError is one too
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number < len(lines):
            print(f"warning: {path}: line {number} is damaged, and left out")
    return rows
