"""Submissions as they arrive, zip files or folders: unpacked without trust in any name or size in them."""

import contextlib
import hashlib
import io
import itertools
import os
import re
import shutil
import stat
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from src.submission import bounds
from src.submission.failures import Failed, blamed, quoted

BLOCK = 1 << 20
CLUTTER = {"__macosx", ".ds_store", "thumbs.db", "desktop.ini", "__pycache__", ".ipynb_checkpoints", ".git"}
MARKER = "custom_model.py"  # stands in the top folder of every submission
SHOWN = 4  # of the names in a list, at least
ENCODINGS = ("utf-8", "cp949", "gb18030")  # of names and texts that do not say theirs; macOS, Korean and Chinese Windows


def unpack(source: Path, folder: Path) -> list[str]:
    """Copy the files of a zip file or folder into the new `folder`, and return remarks: what was not taken as it stands.

    The folder that has custom_model.py becomes the top one, with the PDFs beside it. A folder without it that holds one zip
    file stands for that, and a zip file that holds one is unpacked twice. Clutter (is_clutter) is no part of a submission.

    Raises Failed: unsafe_archive for an unsafe kind of file, path or size; missing_file where `source` is absent, damaged or
    two submissions; memory_limit. OSError for a fault of the machine, such as a full disk.
    """
    if source.is_symlink():
        raise Failed("unsafe_archive", f"{quoted(source.name)} is a link")
    folder.mkdir(parents=True)
    if not source.is_dir() and not source.is_file():
        raise Failed("missing_file", f"{source.name}: no such zip file or folder")
    target, remarks = _Target(folder), []
    with blamed("missing_file", quoted(source.name), "cannot be unpacked, it may be damaged"):
        packed = _zip_inside(source, remarks) if source.is_dir() else source
        if packed is None:
            target.copy_folder(source)
        else:
            target.unpack(packed)
            if packed := _zip_inside(folder, remarks):
                with tempfile.TemporaryDirectory(dir=folder.parent) as outside:
                    packed = packed.rename(Path(outside) / packed.name)
                    shutil.rmtree(folder)
                    folder.mkdir()
                    target.unpack(packed)
        _lift(folder, remarks)
    return remarks


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file whose list of members is not read where it is too large. Raises what zipfile does: anything."""
    with _ShortReads(io.FileIO(path)) as stream, zipfile.ZipFile(stream) as archive:
        yield archive


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is what archivers, systems, editors and Python leave behind."""
    return name.startswith("._") or name.casefold() in CLUTTER


def readable(data: bytes) -> str:
    """Text that does not say its encoding: UTF-8, or else what Korean and Chinese systems write, or else DOS's first."""
    for encoding in ENCODINGS:
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(encoding)
    return data.decode("cp437")  # has a letter for every byte


def content_hash(source: Path) -> str:
    """SHA-256 of a zip file's bytes, or of the names and bytes of a folder's files; links count by their target's name.

    What is there beyond HASHED_BYTES and the files that are allowed does not count, and what cannot be read has a hash, too.
    """
    digest, left = hashlib.sha256(), bounds.HASHED_BYTES
    if not source.is_dir():
        _feed(digest, source, left)
        return digest.hexdigest()
    for path in sorted(itertools.islice(_walk(source), 2 * bounds.ARCHIVE_FILES)):
        name = os.fsencode(path.relative_to(source).as_posix())
        found = path.lstat()
        digest.update(b"%d %s %d " % (len(name), name, stat.S_IFMT(found.st_mode)))
        if stat.S_ISLNK(found.st_mode):
            digest.update(os.fsencode(os.readlink(path)))
        elif stat.S_ISREG(found.st_mode):
            digest.update(b"%d " % found.st_size)
            left -= _feed(digest, path, left)
    return digest.hexdigest()


class _ShortReads(io.BufferedReader):
    """Refuses to read so much at once as only the list of a zip file's members can be: zipfile reads it in one piece."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > bounds.DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a list of members of {size} bytes, at most {bounds.DIRECTORY_BYTES} are read")
        return super().read(size)


class _Target:
    """Writes files below a folder, and counts files and bytes while it does, so that no declared size is believed."""

    def __init__(self, folder: Path):
        self.folder, self.files, self.bytes = folder, 0, 0

    def add(self, name: object, stream: IO[bytes]) -> None:
        target = self.folder / str(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            while block := stream.read(BLOCK):
                self.bytes += len(block)
                if self.bytes > bounds.ARCHIVE_BYTES:
                    raise Failed("unsafe_archive", f"more than {bounds.ARCHIVE_BYTES / 1e6:,.0f} MB unpacked")
                out.write(block)

    def count(self) -> None:
        self.files += 1
        if self.files > bounds.ARCHIVE_FILES:
            raise Failed("unsafe_archive", f"more than {bounds.ARCHIVE_FILES} files")

    def unpack(self, source: Path) -> None:
        try:
            with open_zip(source) as archive:
                members = archive.infolist()
                if len(members) > 2 * bounds.ARCHIVE_FILES:
                    raise Failed("unsafe_archive", f"{len(members)} members, at most {bounds.ARCHIVE_FILES} files are allowed")
                for member in members:
                    path = _member_path(member)
                    if any(map(is_clutter, path.parts)):
                        continue
                    kind = stat.S_IFMT(member.external_attr >> 16)
                    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                        what = "a link" if kind == stat.S_IFLNK else "no plain file"
                        raise Failed("unsafe_archive", f"{quoted(path)} is {what}")
                    if member.is_dir():
                        continue
                    self.count()
                    size, stored = member.file_size, member.compress_size
                    if size > bounds.RATIO_FROM and size > bounds.ARCHIVE_RATIO * max(stored, 1):
                        raise Failed("unsafe_archive", f"{quoted(path)} unpacks to {size / 1e6:,.0f} MB from {stored} bytes")
                    with archive.open(member) as stream:
                        self.add(path, stream)
        except FileExistsError as error:
            raise Failed("unsafe_archive", f"{quoted(Path(error.filename).name)} comes twice") from error
        except (NotADirectoryError, IsADirectoryError) as error:
            raise Failed("unsafe_archive", f"{quoted(Path(error.filename).name)} is both a file and a folder") from error

    def copy_folder(self, source: Path) -> None:
        for path in _walk(source):
            mode, name = path.lstat().st_mode, path.relative_to(source)
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise Failed("unsafe_archive", f"{quoted(name)} is {'a link' if stat.S_ISLNK(mode) else 'no plain file'}")
            if stat.S_ISREG(mode):
                self.count()
                with blamed("missing_file", quoted(name), "cannot be read"), open(path, "rb", opener=_open_no_link) as stream:
                    self.add(name, stream)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder, links not followed, clutter left out."""
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        for name in folders + sorted(name for name in files if not is_clutter(name)):
            yield Path(parent) / name


def _zip_inside(folder: Path, remarks: list[str]) -> Path | None:
    """The zip file that a folder stands for, having one and no custom_model.py. Failed where it has several."""
    files = [path for path in _walk(folder) if stat.S_ISREG(path.lstat().st_mode)]
    zips = [path for path in files if path.suffix.lower() == ".zip"]
    if not zips or any(path.name == MARKER for path in files):
        return None
    if len(zips) > 1:
        names = _listed(path.name for path in zips)
        raise Failed("missing_file", f"{names}: {len(zips)} zip files and no {MARKER}; hand in one of them")
    beside = [path.relative_to(folder).as_posix() for path in files if path != zips[0]]
    left_out = f"; left out: {_listed(beside)}" if beside else ""
    remarks.append(f"the submission is {quoted(zips[0].name)} inside of it{left_out}")
    return zips[0]


def _member_path(member: zipfile.ZipInfo) -> PurePosixPath:
    """The relative path of a zip file's member, composed (NFC); Failed where it is absolute, leads upwards or is of no use.

    Names that are not marked as UTF-8 were read as code page 437 and are read anew from their bytes.
    """
    name = member.orig_filename  # of a system with backslashes too as it stands in the file
    if not member.flag_bits & 0x800:
        name = readable(name.encode("cp437"))
    name = unicodedata.normalize("NFC", name)
    path, fault = PurePosixPath(name), ""
    if not name or path.is_absolute() or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name) or "\0" in name:
        fault = "is no relative path inside the archive"
    elif "\\" in name:
        fault = (
            "has backslashes for folders, as an old Windows tool wrote them: zip it again with Explorer "
            "(Send to, Compressed folder), 7-Zip or python -m src.submission pack"
        )
    elif len(os.fsencode(name)) > bounds.PATH_BYTES or any(len(os.fsencode(part)) > bounds.NAME_BYTES for part in path.parts):
        fault = (
            f"is too long: at most {bounds.NAME_BYTES} bytes per name ({bounds.NAME_BYTES // 3} Korean letters) and "
            f"{bounds.PATH_BYTES} a path are allowed; give it a shorter one"
        )
    if fault:
        raise Failed("unsafe_archive", f"{quoted(name)} {fault}")
    return path


def _lift(folder: Path, remarks: list[str]) -> None:
    """Where custom_model.py stands in a folder below, put that one's content at the top, and the PDFs beside it."""
    tops = sorted({path.parent for path in folder.rglob(MARKER) if path.is_file()}, key=lambda top: (len(top.parts), top))
    if not tops or tops[0] == folder:
        return
    top = tops[0]
    level = [other.relative_to(folder).as_posix() for other in tops if len(other.parts) == len(top.parts)]
    if len(level) > 1:
        raise Failed("missing_file", f"{MARKER} stands in {_listed(level)}: hand in one folder that has it")
    left = []
    for path in [path for path in _walk(folder) if path.is_file() and top not in path.parents]:
        if path.suffix.lower() == ".pdf" and not (top / path.name).exists():
            path.rename(top / path.name)
        else:
            left.append(path.relative_to(folder).as_posix())
    left_out = f"; left out beside it: {_listed(left)}" if left else ""
    remarks.append(f"the submission is the folder {quoted(level[0])} inside of it{left_out}")
    with tempfile.TemporaryDirectory(dir=folder.parent) as outside:
        inner = top.rename(Path(outside) / "inner")
        shutil.rmtree(folder)
        inner.rename(folder)


def _listed(names: Iterable[str]) -> str:
    """A few names, between quotes."""
    names = list(names)
    shown = names[:SHOWN] if len(names) > SHOWN + 1 else names
    return ", ".join(map(quoted, shown)) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def _feed(digest: "hashlib._Hash", path: Path, most: int) -> int:
    """Add a file's first bytes, at most so many; how many they are."""
    left = most
    try:
        with path.open("rb") as stream:
            while block := stream.read(min(BLOCK, left)):
                digest.update(block)
                left -= len(block)
    except OSError:
        digest.update(b"unreadable")  # take_in says why
    return most - left
