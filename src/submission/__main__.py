"""Hand in and grade: `python -m src.submission pack | check | grade ...`; `--help` after each."""

import importlib
import sys

from src.common.cli import UserError, run_script

COMMANDS = ("pack", "check", "grade")


def main() -> None:
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in ("-h", "--help"):
        print(__doc__)
        return
    if name not in COMMANDS:
        raise UserError(f"expected one of {', '.join(COMMANDS)}, got {name!r}: python -m src.submission {COMMANDS[0]} --help")
    importlib.import_module(f"src.submission.{name}").main(rest)


if __name__ == "__main__":
    run_script(main)
