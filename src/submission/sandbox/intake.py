"""A submission as it comes in, read by a process of its own: what its bytes do to a reader they do there, within bounds.

python -m src.submission.sandbox.intake SUBMISSION WORK OPTIONS CHALLENGE
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from src.challenges import Challenge, get_challenge
from src.common.cli import UserError, run_script
from src.common.files import PROJECT_ROOT, load_torch
from src.submission import bounds
from src.submission.failures import Failed, blamed, quoted
from src.submission.handin.archive import unpack
from src.submission.handin.contents import CHECKPOINT, CONFIG
from src.submission.handin.weights import Weights, build_weights, read_tensors

PYTHON = sys.executable
NEEDED = ("custom_model.py", CHECKPOINT, CONFIG)
FOUND = "found.pt"
BROKEN = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")


@dataclass(frozen=True)
class Intake:
    """A submission that has been read, and not run. top: its files. config: the options of its model."""

    top: Path
    config: dict[str, Any]
    weights: Weights


def take_in(
    submission: Path,
    work: Path,
    remarks: list[str],
    network_options: dict[str, Any] | None = None,
    challenge: Challenge | None = None,
) -> Intake:
    """Unpack a submission, a zip file or folder, into the folder `work`, and read its options and checkpoint.

    network_options, challenge: see weights.read_tensors. Lines for the author are added to remarks, also where it fails.

    Raises Failed for whatever is wrong with its bytes, also where they break the process that reads them. UserError and
    RuntimeError are faults of ours: `submission` is not to be read, the disk is full.
    """
    challenge = challenge or get_challenge()
    if not os.access(submission, os.R_OK):
        raise UserError(f"{submission} is absent or cannot be read")
    words = [str(submission.absolute()), str(work.absolute()), json.dumps(network_options or {}), challenge.name]
    command, pipes = [PYTHON, "-m", __spec__.name, *words], {"stdin": subprocess.DEVNULL, "capture_output": True}
    try:
        done = subprocess.run(command, cwd=PROJECT_ROOT, text=True, errors="replace", timeout=bounds.READ_SECONDS, **pipes)
    except subprocess.TimeoutExpired:
        raise Failed("time_limit", f"it was not read within {bounds.READ_SECONDS:g} s") from None
    if done.returncode < 0:
        raise _killed(-done.returncode)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise RuntimeError(f"the process that reads it: {quoted((done.stderr.strip().splitlines() or ['no word'])[-1])}")
    found = json.loads(done.stdout.splitlines()[-1])
    remarks += found.pop("remarks")
    if "code" in found:
        raise Failed(**found)
    weights = build_weights(Weights(**load_torch(work / FOUND)), network_options, challenge)
    (work / FOUND).unlink()
    remarks += weights.remarks
    return Intake(work / "submission", found["config"], weights)


def read_config(top: Path) -> dict[str, Any]:
    """The options in model_config.json. Raises Failed where it holds anything else than a small object."""
    size = (top / CONFIG).stat().st_size
    if size > bounds.CONFIG_BYTES:
        raise Failed("stored_images", f"{CONFIG} has {size} bytes, at most {bounds.CONFIG_BYTES} are allowed")
    with blamed("missing_file", CONFIG, "is no JSON"):
        config = json.loads((top / CONFIG).read_text(encoding="utf-8-sig"))
        if not isinstance(config, dict) or "device" in config or _depth(config) > bounds.CONFIG_DEPTH:
            raise Failed("missing_file", f"{CONFIG}: expected an object of options without device")
    return config


def _read(
    submission: Path, work: Path, remarks: list[str], network_options: dict[str, Any], challenge: Challenge
) -> dict[str, Any]:
    """In the process: the options; the weights' tensors are in the file FOUND then. Raises Failed."""
    remarks += unpack(submission, top := work / "submission")
    with blamed("missing_file", "the submission", "cannot be read"):
        for name in NEEDED:
            if not (top / name).is_file():
                raise Failed("missing_file", f"{name} is not in the submission")
        size = sum(path.stat().st_size for path in top.rglob("*.py"))
        if size > bounds.CODE_BYTES:
            most = f"at most {bounds.CODE_BYTES / 1e6:,.0f} are allowed"
            raise Failed("unsafe_archive", f"{size / 1e6:,.0f} MB of Python files, {most}")
        config = read_config(top)
        tensors = read_tensors(top, network_options, challenge)
    torch.save(vars(tensors), work / FOUND)
    return config


def _bound_resources() -> None:
    """Bound this process; a system that has no such bounds has the time alone."""
    if sys.platform == "win32":
        return
    import resource

    values = {"CPU": bounds.READ_CPU_SECONDS, "DATA": bounds.READ_MEMORY, "FSIZE": bounds.READ_FILE_BYTES, "CORE": 0}
    for name, most in values.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _killed(number: int) -> Exception:
    """What to say of a process that a signal has ended."""
    name = signal.Signals(number).name
    if name == "SIGXCPU":
        return Failed("time_limit", f"to read it takes more than {bounds.READ_CPU_SECONDS} s of CPU time")
    if name == "SIGKILL":
        return Failed("memory_limit", "the system ended the process that read it, as it does for want of memory")
    if name in BROKEN:
        return Failed("bad_checkpoint", f"{CHECKPOINT}: the process that read it broke ({name})")
    return RuntimeError(f"the process that reads it was ended from outside ({name})")


def _depth(value: Any) -> int:
    """Of lists and objects in each other."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if parts is None else 1 + max(map(_depth, parts), default=0)


def main() -> None:
    submission, work, network_options, challenge = sys.argv[1:]
    _bound_resources()
    remarks: list[str] = []
    try:
        config = _read(Path(submission), Path(work), remarks, json.loads(network_options), get_challenge(challenge))
        found: dict[str, Any] = {"config": config}
    except Failed as error:
        found = {"code": error.code, "text": error.text, "private": error.private}
    print(json.dumps({**found, "remarks": remarks}))


if __name__ == "__main__":
    run_script(main)
