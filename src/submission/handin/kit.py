"""Which files are not the student's: what a course hands out fixed, and all that its scripts import of the kit but the model.

The kit is what lies in this clone. Who grades puts its protected files over a submission's before anything of that runs, so a
changed one only misleads its author. A file of an earlier kit is known by its git blob in the clone's history; where that or
git itself is absent, today's files alone are known. The originals of the course are as good as the kit's.
"""

import functools
import hashlib
import shutil
import subprocess
from collections.abc import Container, Mapping
from pathlib import Path

from src.common.files import PROJECT_ROOT
from src.submission import bounds
from src.submission.handin.contents import SCRIPTS, closure

COURSE = {  # the course's files -> SHA-256 of its originals, which lie in no clone of ours
    "sampling.py": "832085c8d660ede4cc05fe3ac79040ce4cb98912f43c6853081e124b120dcd66",
    "measure_fid.py": "967b74c11ec11ab5d27c9e0c813e05bc93c6ea96ee27a451606db6fac53ea67f",
    "dataset.py": "1612ae7c2f9a1b2fae9eddc9591e5a5a4d3c94fc06601998a98a3f530a341e62",
    "data/train_split.txt": "00a9ce218e4bc0420375e264d73b7e6865821fa96dfa26495ed168a3bf9275ac",
    "data/val_split.txt": "4756a69d22bd062a52aef138a96719b9145a72a797d4f0694748bd97adf7ef87",
    "src/base_model.py": "4da1a700c734e20e60b2964409d552341ae9cc39eeab1e4926bcd8555c4deb4c",
    "src/network.py": "6c2950dcdfa62530330ac657de7b456cfdb288fe43651775405eba32fba97b0b",
    "src/module.py": "61d7452c01887afc3996f7863eae149afc2c6ca414e0c96c300045569154a1b7",
}


@functools.cache
def protected_files() -> tuple[str, ...]:
    """The course's files, then all that its scripts import of ours but for the model, sorted."""
    imported = closure(PROJECT_ROOT, [*SCRIPTS, "dataset.py"], without=["custom_model.py"]) - {"src/__init__.py"}
    return *COURSE, *sorted(imported - {*COURSE})


def hashes_of(path: Path) -> tuple[str, str]:
    """Git blob and SHA-256 of a text file, whatever its line ends, and with or without a byte order mark."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), hashlib.sha256(data).hexdigest()


@functools.cache
def history() -> dict[str, set[str]]:
    """Protected file -> its blobs in this clone's history, by one call of git (-m: of merges, too); empty without any."""
    command = ["git", "log", "-m", "--raw", "--no-abbrev", "--no-renames", "--relative", "--format=", "--"]
    try:
        done = subprocess.run([*command, *protected_files()], cwd=PROJECT_ROOT, capture_output=True, text=True)
    except OSError:
        return {}
    found: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        values, _, name = line.partition("\t")
        found.setdefault(name, set()).add(values.split()[3])
    return found


def known_blobs(handed_out: bool = False) -> dict[str, set[str]]:
    """Protected file -> the blobs that are the kit's: those of its history, and today's.

    handed_out: today's only where there is no history of the file, since a student may have changed it.
    """
    found = {name: set(history().get(name, ())) for name in protected_files()}
    for name, blobs in found.items():
        if not handed_out or not blobs:
            blobs.add(hashes_of(PROJECT_ROOT / name)[0])
    return found


def states(folder: Path, known: Mapping[str, Container[str]]) -> dict[str, str]:
    """What a folder has of each protected file: "kit" (its blobs), "course" for an original, "changed" or "absent"."""
    found = {}
    for name, blobs in known.items():
        path, found[name] = folder / name, "changed"
        if not path.is_file():
            found[name] = "absent"
        elif path.stat().st_size <= bounds.KIT_FILE_BYTES:
            blob, digest = hashes_of(path)
            found[name] = "kit" if blob in blobs else "course" if digest == COURSE.get(name) else "changed"
    return found


def restore(folder: Path) -> None:
    """Put the kit's protected files into a folder. Everything else stays.

    A link or a folder that stands in a file's place is removed, not followed.
    """
    for name in protected_files():
        target = folder
        for part in Path(name).parent.parts:
            target /= part
            if target.is_symlink() or target.is_file():
                target.unlink()
            target.mkdir(exist_ok=True)
        target = folder / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        shutil.copyfile(PROJECT_ROOT / name, target)
