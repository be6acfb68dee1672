"""Which files are not the student's: what a course hands out fixed, known by their SHA-256.

    python -m src.submission.manifest        # after a change of such a file: writes manifest.json anew

Who grades puts the kit's own copies of the protected files in place before anything of a submission runs, so a changed one only
misleads its author. The originals of the course that this kit serves are as good as the kit's.
"""

import hashlib
import shutil
from pathlib import Path

from src.common.cli import run_script
from src.common.files import PROJECT_ROOT, load_json, save_json
from src.submission.contents import closure

MANIFEST = Path(__file__).with_name("manifest.json")
SCRIPTS = ("sampling.py", "measure_fid.py", "dataset.py")
FIXED = (*SCRIPTS, "data/train_split.txt", "data/val_split.txt", "src/base_model.py", "src/network.py", "src/module.py")


def protected_files() -> list[str]:
    """The course's files, then all that its scripts import of ours but for the model, sorted."""
    imported = closure(PROJECT_ROOT, SCRIPTS, without=["custom_model.py"]) - {"src/__init__.py"}
    return [*FIXED, *sorted(imported - {*FIXED})]


def hash_file(path: str | Path) -> str:
    """SHA-256 of a text file in hex, whatever its line ends, and with or without a byte order mark."""
    data = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    return hashlib.sha256(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")).hexdigest()


def read_manifest() -> dict[str, dict[str, str]]:
    """Protected file -> whose ("kit", and "course" where the course has one) -> SHA-256, as manifest.json has it."""
    return load_json(MANIFEST)


def states(folder: str | Path) -> dict[str, str]:
    """What a folder has of each protected file: "kit", "course" for its original, "changed" or "absent"."""
    found = {}
    for name, digests in read_manifest().items():
        path = Path(folder) / name
        if path.is_file():
            digest = hash_file(path)
            found[name] = next((whose for whose, known in digests.items() if known == digest), "changed")
        else:
            found[name] = "absent"
    return found


def restore(folder: str | Path) -> list[str]:
    """Put the kit's protected files into a folder and return those that were changed or absent there.

    Everything else stays. A link or a folder that stands in a file's place is removed, not followed.
    """
    folder = Path(folder)
    replaced = [name for name, state in states(folder).items() if state in ("changed", "absent")]
    for name in read_manifest():
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
    return replaced


def main() -> None:
    course = {name: digests["course"] for name, digests in read_manifest().items() if "course" in digests}
    manifest = {
        name: {"kit": hash_file(PROJECT_ROOT / name), **({"course": course[name]} if name in course else {})}
        for name in protected_files()
    }
    save_json(manifest, MANIFEST)
    print(f"{len(manifest)} protected files: {MANIFEST}")


if __name__ == "__main__":
    run_script(main)
