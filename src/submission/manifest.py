"""The protected files: what a course hands out fixed, by their SHA-256.

    python -m src.submission.manifest        # after a change of the kit: writes manifest.json anew

Who grades puts the kit's own copies in place before anything of a submission runs, so a changed one only misleads its author.
"""

import hashlib
import json
import shutil
from pathlib import Path

from src.common.cli import run_script
from src.common.files import PROJECT_ROOT, load_json, write_whole

MANIFEST = Path(__file__).with_name("manifest.json")
PROTECTED = (
    "sampling.py",
    "measure_fid.py",
    "dataset.py",
    "data/train_split.txt",
    "data/val_split.txt",
    "src/base_model.py",
    "src/network.py",
    "src/module.py",
    "src/common/checkpoints.py",
    "src/common/cli.py",
    "src/common/devices.py",
    "src/common/files.py",
    "src/common/images.py",
    "src/common/sampling.py",
    "src/datasets/images.py",
    "src/evaluation/features.py",
    "src/evaluation/fid.py",
    "src/evaluation/inception.py",
    "src/evaluation/weights.py",
    "src/training/distributed.py",
)


def hash_file(path: str | Path) -> str:
    """SHA-256 of a text file in hex, whether its lines end in LF or, as some systems write them, in CRLF."""
    return hashlib.sha256(Path(path).read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def read_manifest() -> dict[str, str]:
    """Protected file -> SHA-256, as manifest.json has it."""
    return load_json(MANIFEST)


def differences(folder: str | Path) -> dict[str, str]:
    """The protected files of a folder that are not the kit's: file -> "changed" or "absent"."""
    found = {}
    for name, digest in read_manifest().items():
        path = Path(folder) / name
        if not path.is_file():
            found[name] = "absent"
        elif hash_file(path) != digest:
            found[name] = "changed"
    return found


def restore(folder: str | Path) -> list[str]:
    """Put the kit's protected files into a folder and return those that were changed or absent there.

    Everything else stays. A link or a folder that stands in a file's place is removed, not followed.
    """
    folder = Path(folder)
    replaced = list(differences(folder))
    for name in PROTECTED:
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
    hashes = {name: hash_file(PROJECT_ROOT / name) for name in PROTECTED}
    with write_whole(MANIFEST) as partial:
        partial.write_text(json.dumps(hashes, indent=2) + "\n")
    print(f"{len(hashes)} protected files: {MANIFEST}")


if __name__ == "__main__":
    run_script(main)
