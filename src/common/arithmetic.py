"""A sampler as arithmetic, as `python -m src.submission plan` prints it: asked for by that command, in a process of its own."""

from pathlib import Path

from src.common.commands import run_command


def arithmetic(checkpoint: str | Path, nfe: int) -> list[str]:
    """The lines of a checkpoint's sampler at this NFE; the first says how many calls, operations and numbers it has.

    Raises UserError where no plan can hold it.
    """
    return [line.strip() for line in run_command("src.submission", "plan", Path(checkpoint).resolve(), "--nfe", nfe)]
