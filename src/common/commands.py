"""Commands of the kit as processes of their own: how one wing asks another, without importing it."""

import subprocess
import sys
from typing import Any

from src.common.cli import UserError
from src.common.files import PROJECT_ROOT


def run_command(module: str, *words: Any) -> list[str]:
    """The lines that `python -m MODULE WORDS` prints. Raises UserError with what it says where it fails."""
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(last_line(done.stderr))
    return done.stdout.strip().splitlines()


def last_line(errors: str) -> str:
    """What a command that has failed says: the last line of its standard error."""
    return (errors.strip().splitlines() or ["the command has failed without a word"])[-1].removeprefix("error: ")
