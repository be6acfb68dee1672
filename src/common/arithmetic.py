"""A sampler as arithmetic, as `python -m src.submission plan` prints it: asked for by that command, in a process of its own."""

import subprocess
import sys
from pathlib import Path

from src.common.cli import UserError
from src.common.files import PROJECT_ROOT


def arithmetic(checkpoint: str | Path, nfe: int) -> list[str]:
    """The lines of a checkpoint's sampler at this NFE; the first says how many calls, operations and numbers it has.

    Raises UserError where no plan can hold it.
    """
    command = [sys.executable, "-m", "src.submission", "plan", str(Path(checkpoint).resolve()), "--nfe", str(nfe)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError((done.stderr.strip().splitlines() or ["the plan could not be made"])[-1].removeprefix("error: "))
    return [line.strip() for line in done.stdout.strip().splitlines()]
