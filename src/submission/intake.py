"""A submission as it comes in, read by a process of its own: what its bytes do to a reader they do there, within limits.

python -m src.submission.intake SUBMISSION WORK OPTIONS CHALLENGE
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
from src.submission.archive import unpack
from src.submission.contents import CHECKPOINT, CONFIG
from src.submission.failures import Failed, blamed, quoted
from src.submission.manifest import states
from src.submission.weights import Tensors, Weights, build_weights, read_tensors

PYTHON = sys.executable
SECONDS = 600.0  # for all of it; a checkpoint of 235 MB takes 5
LIMITS = {"CPU": 180, "DATA": 4 << 30, "FSIZE": 3 << 30, "CORE": 0}  # of the process, where the system has them
NEEDED = ("custom_model.py", CHECKPOINT, CONFIG)
CODE_BYTES = 64 << 20  # of all Python files
CONFIG_BYTES, CONFIG_DEPTH = 64 << 10, 20
FOUND = "found.pt"


@dataclass(frozen=True)
class Intake:
    """A submission that has been read, and not run.

    top: its files. states: what it has of the protected ones, see manifest.states. config: the options of its model.
    """

    top: Path
    states: dict[str, str]
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

    Raises Failed for whatever is wrong with its bytes, as unpack, read_config and read_tensors do: also where they break the
    process that reads them, which is a bad_checkpoint, or take more memory or time than it may. UserError and RuntimeError are
    faults of ours: `submission` is not to be read, the disk is full.
    """
    challenge = challenge or get_challenge()
    if not os.access(submission, os.R_OK):
        raise UserError(f"{submission} is absent or cannot be read")
    words = [str(submission.absolute()), str(work.absolute()), json.dumps(network_options or {}), challenge.name]
    command, pipes = [PYTHON, "-m", "src.submission.intake", *words], {"stdin": subprocess.DEVNULL, "capture_output": True}
    try:
        done = subprocess.run(command, cwd=PROJECT_ROOT, text=True, errors="replace", timeout=SECONDS, **pipes)
    except subprocess.TimeoutExpired:
        raise Failed("time_limit", f"it was not read within {SECONDS:g} s") from None
    if done.returncode < 0:
        raise _killed(-done.returncode)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise RuntimeError(f"the process that reads it: {quoted((done.stderr.strip().splitlines() or ['no word'])[-1])}")
    told = json.loads(done.stdout.splitlines()[-1])
    remarks += told.pop("remarks")
    if "code" in told:
        raise Failed(**told)
    weights = build_weights(Tensors(**load_torch(work / FOUND)), network_options, challenge)
    (work / FOUND).unlink()
    remarks += weights.remarks
    return Intake(work / "submission", weights=weights, **told)


def read_config(top: Path) -> dict[str, Any]:
    """The options in model_config.json. Raises Failed where it holds anything else than a small object."""
    file = top / CONFIG
    if file.stat().st_size > CONFIG_BYTES:
        raise Failed("stored_images", f"{CONFIG} has {file.stat().st_size} bytes, at most {CONFIG_BYTES} are allowed")
    with blamed("missing_file", CONFIG, "is no JSON"):
        config = json.loads(file.read_text(encoding="utf-8-sig"))
        if not isinstance(config, dict) or "device" in config or _depth(config) > CONFIG_DEPTH:
            raise Failed("missing_file", f"{CONFIG}: expected an object of options without device")
    return config


# ------------------------------------------------------------------------------------------------------------ parts


def _read(
    submission: Path, work: Path, remarks: list[str], network_options: dict[str, Any], challenge: Challenge
) -> dict[str, Any]:
    """In the process: the fields of Intake in JSON's types; the weights' tensors are in the file FOUND then. Raises Failed."""
    remarks += unpack(submission, top := work / "submission")
    with blamed("missing_file", "the submission", "cannot be read"):
        for name in NEEDED:
            if not (top / name).is_file():
                raise Failed("missing_file", f"{name} is not in the submission")
        size = sum(path.stat().st_size for path in top.rglob("*.py"))
        if size > CODE_BYTES:
            raise Failed("unsafe_archive", f"{size / 1e6:,.0f} MB of Python files, at most {CODE_BYTES / 1e6:,.0f} are allowed")
        told = {"states": states(top), "config": read_config(top)}
        tensors = read_tensors(top, network_options, challenge)
    torch.save(vars(tensors), work / FOUND)
    return told


def _limit_resources() -> None:
    """Set LIMITS for this process; a system that has none of them has the time alone."""
    try:
        import resource
    except ImportError:
        return
    for name, most in LIMITS.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _killed(number: int) -> Exception:
    """What to tell of a process that a signal has ended."""
    name = signal.Signals(number).name
    if name == "SIGXCPU":
        return Failed("time_limit", f"to read it takes more than {LIMITS['CPU']} s of CPU time")
    if name == "SIGKILL":
        return Failed("memory_limit", "the system ended the process that read it, as it does for want of memory")
    if name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"):
        return Failed("bad_checkpoint", f"{CHECKPOINT}: the process that read it broke ({name})")
    return RuntimeError(f"the process that reads it was ended from outside ({name})")


def _depth(value: Any) -> int:
    """Of lists and objects in each other."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if parts is None else 1 + max(map(_depth, parts), default=0)


def main() -> None:
    submission, work, network_options, challenge = sys.argv[1:]
    _limit_resources()
    remarks: list[str] = []
    try:
        told = _read(Path(submission), Path(work), remarks, json.loads(network_options), get_challenge(challenge))
    except Failed as error:
        told = {"code": error.code, "text": error.text, "private": error.private}
    print(json.dumps({**told, "remarks": remarks}))


if __name__ == "__main__":
    run_script(main)
