"""Submissions as they arrive, zip files or folders: unpacked without trust in any name or size in them."""

import hashlib
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from src.submission.failures import Failed

BLOCK = 1 << 20
IGNORED = {"__MACOSX", "__pycache__", ".DS_Store", ".git"}  # what archivers and Python leave behind; never unpacked
MARKER = "custom_model.py"  # stands in the top folder of every submission


@dataclass(frozen=True)
class ArchiveLimits:
    """What a submission may be at most: files, bytes in all, and bytes unpacked for one packed (of what is over a MiB)."""

    files: int = 5000
    bytes: int = 1 << 30
    ratio: float = 200.0


def unpack(source: Path, folder: Path, limits: ArchiveLimits | None = None) -> None:
    """Copy the files of a zip file or folder into `folder`, which is made.

    custom_model.py stands at its top afterwards: where all is in one folder more, that one is left out. Files become plain,
    readable and not executable, whatever the archive says.

    Raises Failed: unsafe_archive for a link or special file, a path that is absolute or leads out, a name that comes twice,
    too many files or bytes; missing_file where `source` is absent, no zip or damaged.
    """
    limits = limits or ArchiveLimits()
    if source.is_symlink():
        raise Failed("unsafe_archive", f"{source.name} is a link")
    folder.mkdir(parents=True)
    if not source.is_dir() and not source.is_file():
        raise Failed("missing_file", f"{source.name}: no such zip file or folder")
    try:
        (_copy_folder if source.is_dir() else _unpack_zip)(source, folder, limits)
    except PermissionError as error:
        raise Failed("missing_file", f"{Path(error.filename).name} cannot be read") from error
    _lift(folder)


def content_hash(source: Path) -> str:
    """SHA-256 of a zip file's bytes, or of the names and bytes of a folder's files; links count by their target's name."""
    digest = hashlib.sha256()
    if not source.is_dir():
        _feed(digest, source)
        return digest.hexdigest()
    for path in sorted(_walk(source)):
        name = os.fsencode(path.relative_to(source).as_posix())
        mode = path.lstat().st_mode
        digest.update(b"%d %s %d " % (len(name), name, stat.S_IFMT(mode)))
        if stat.S_ISLNK(mode):
            digest.update(os.fsencode(os.readlink(path)))
        elif stat.S_ISREG(mode):
            digest.update(b"%d " % path.lstat().st_size)
            _feed(digest, path)
    return digest.hexdigest()


def copy_code(top: Path, folder: Path) -> list[str]:
    """Copy the Python files of an unpacked submission, and nothing else, to `folder`; their relative paths, sorted."""
    names = sorted(path.relative_to(top).as_posix() for path in top.rglob("*.py") if path.is_file())
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(top / name, target)
    return names


# ------------------------------------------------------------------------------------------------------------ parts


class _Budget:
    """Counts files and bytes while they are written, so that no declared size is believed."""

    def __init__(self, limits: ArchiveLimits):
        self.limits, self.files, self.bytes = limits, 0, 0

    def add_file(self) -> None:
        self.files += 1
        if self.files > self.limits.files:
            raise Failed("unsafe_archive", f"more than {self.limits.files} files")

    def copy(self, stream: IO[bytes], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            while block := stream.read(BLOCK):
                self.bytes += len(block)
                if self.bytes > self.limits.bytes:
                    raise Failed("unsafe_archive", f"more than {self.limits.bytes / 1e6:,.0f} MB unpacked")
                out.write(block)


def _unpack_zip(source: Path, folder: Path, limits: ArchiveLimits) -> None:
    budget = _Budget(limits)
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            if len(members) > 2 * limits.files:
                raise Failed("unsafe_archive", f"{len(members)} members, at most {limits.files} files are allowed")
            for member in members:
                path = _safe_path(member.filename)
                kind = stat.S_IFMT(member.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    what = "a link" if kind == stat.S_IFLNK else "no plain file"
                    raise Failed("unsafe_archive", f"{member.filename} is {what}")
                if member.is_dir() or IGNORED & set(path.parts):
                    continue
                budget.add_file()
                if member.file_size > BLOCK and member.file_size > limits.ratio * max(member.compress_size, 1):
                    raise Failed(
                        "unsafe_archive",
                        f"{member.filename} unpacks to {member.file_size / 1e6:,.0f} MB from {member.compress_size} bytes",
                    )
                with archive.open(member) as stream:
                    budget.copy(stream, folder / path)
    except FileExistsError as error:
        raise Failed("unsafe_archive", f"{Path(error.filename).name} comes twice") from error
    except (NotADirectoryError, IsADirectoryError) as error:
        raise Failed("unsafe_archive", f"{Path(error.filename).name} is both a file and a folder") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, zlib.error) as error:
        raise Failed("missing_file", f"{source.name} is no zip file that can be unpacked ({error})") from error


def _copy_folder(source: Path, folder: Path, limits: ArchiveLimits) -> None:
    budget = _Budget(limits)
    for path in _walk(source):
        mode, name = path.lstat().st_mode, path.relative_to(source)
        if stat.S_ISLNK(mode):
            raise Failed("unsafe_archive", f"{name} is a link")
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise Failed("unsafe_archive", f"{name} is no plain file")
        budget.add_file()
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as stream:
            budget.copy(stream, folder / name)


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder, links not followed, what is IGNORED left out."""
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if name not in IGNORED)
        for name in folders + sorted(name for name in files if name not in IGNORED):
            yield Path(parent) / name


def _safe_path(name: str) -> PurePosixPath:
    """The relative path of a member's name; Failed where it is absolute, leads upwards or is of no system of ours."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise Failed("unsafe_archive", f"{name!r} is no relative path inside the archive")
    if len(name) > 200:
        raise Failed("unsafe_archive", f"{name[:40]!r}... is a path of {len(name)} characters, at most 200 are allowed")
    return path


def _lift(folder: Path) -> None:
    """Where the only thing in folder is a folder with custom_model.py in it, put that one's content in its place."""
    entries = list(folder.iterdir())
    if len(entries) == 1 and (entries[0] / MARKER).is_file():
        inner = entries[0].rename(folder.with_name(f".{folder.name}.inner"))
        folder.rmdir()
        inner.rename(folder)


def _feed(digest: "hashlib._Hash", path: Path) -> None:
    try:
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    except PermissionError:
        digest.update(b"unreadable")  # unpack fails it
