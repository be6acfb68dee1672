"""Locks that die with their process: who owns a folder, and whether the one that writes a file is still alive."""

import contextlib
import functools
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from src.common.cli import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"  # in a folder that has an owner
PATIENCE = 0.2  # seconds for which a lock is asked for again: who only looks whether it is held holds it for a moment


def _try_lock(descriptor: int) -> bool | None:
    """Take the lock of an open file, between machines too where NFS hands it on; None where the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether this open file is the one that stands at path now, and not removed meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def file_lock(path: Path, wait: bool = False) -> Iterator[int | None]:
    """Inside the block this process holds the lock of the file `path`, which is made for it and removed again.

    Gives the open file's descriptor; None where there are no locks. Raises BlockingIOError where another process holds it and
    `wait` is not set, and OSError where the file cannot be made.
    """
    end = time.monotonic() + PATIENCE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        locked = _try_lock(descriptor)
        if locked and _is_at(descriptor, path):
            break
        os.close(descriptor)
        if locked is None:
            path.unlink(missing_ok=True)
            yield None
            return
        if not locked and not wait and time.monotonic() > end:
            raise BlockingIOError(f"{path} is locked")
        time.sleep(0.01)
    try:
        yield descriptor
    finally:
        _remove(path.unlink)
        os.close(descriptor)


def _remove(remove: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):  # something is in it, or it is lost
        remove()


def is_locked(path: Path) -> bool:
    """Whether a process that is alive holds the lock of this file, or may hold it."""
    if fcntl is None:
        return True
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:  # another user's
        return True
    try:
        return _try_lock(descriptor) is not True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def owned(folder: Path, wait: bool = False, new: bool = False) -> Iterator[None]:
    """Inside the block this process alone owns the folder. It is made where it is absent, and removed again if it stays empty.

    new: raise FileExistsError where the folder is there before. Raises UserError where it cannot be written, or where another
    process owns it and `wait` is not set.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=not new)
            for path in reversed(made):
                stack.callback(_remove, path.rmdir)
            descriptor = stack.enter_context(file_lock(folder / LOCK, wait))
            if descriptor is None:
                _say_no_locks()
            else:
                since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
                owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "arguments": sys.argv[1:]}
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps(owner).encode())
        except BlockingIOError as error:
            raise UserError(f"{folder} is in use by {describe_owner(folder)}; wait until it has ended, or end it") from error
        except OSError as error:
            if new and isinstance(error, FileExistsError):
                raise
            raise UserError(f"cannot write in {folder}: {error.strerror or error}") from error
        yield


def owner_of(folder: Path) -> dict[str, Any]:
    """The process that owns a folder: its host, pid, since (when) and arguments; empty where no process does."""
    owner = None
    if is_locked(folder / LOCK):
        with contextlib.suppress(OSError, ValueError):  # just made, or just gone
            owner = json.loads((folder / LOCK).read_text())
    return owner if isinstance(owner, dict) else {}


def describe_owner(folder: Path) -> str:
    """The process that owns a folder, in words."""
    owner = owner_of(folder)
    return f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')}" if owner else "another process"


@functools.cache  # once
def _say_no_locks() -> None:
    print("warning: this file system has no locks: see to it that no other process writes into the same folder")
