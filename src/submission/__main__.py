"""Hand in, grade, show a sampler: `python -m src.submission pack | check | grade | plan ...`; `--help` after each.

Where what is handed in is neither a model nor its samples, --challenge names a hand-in of another kind, which a file of its own
packs and checks.
"""

import importlib
import sys

from src.common.cli import Parser, UserError, run_script

COMMANDS = {"pack": "handin.pack", "check": "handin.check", "grade": "board.grade", "plan": "plan.__main__"}
HAND_INS = {"score_distillation": "handin.score_distillation"}  # --challenge -> the module that packs and checks it


def main() -> None:
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in ("-h", "--help"):
        print(__doc__)
        return
    if name not in COMMANDS:
        raise UserError(f"expected one of {', '.join(COMMANDS)}, got {name!r}: python -m src.submission pack --help")
    first = Parser(add_help=False)
    first.add_argument("--challenge")
    challenge = first.parse_known_args(rest)[0].challenge
    other = name in ("pack", "check") and HAND_INS.get(challenge)
    module = importlib.import_module(f"src.submission.{other or COMMANDS[name]}")
    module.main(*([name] if other else []), rest)


if __name__ == "__main__":
    run_script(main)
