"""Hand in, grade, show a sampler: `python -m src.submission pack | check | grade | plan ...`; `--help` after each.

Where what is handed in is neither a model nor its samples, --challenge names a hand-in of another kind, which a file of its own
packs and checks.
"""

import importlib
import sys

from src.common.cli import Parser, UserError, run_script

COMMANDS = ("pack", "check", "grade", "plan")
MODULES = {"plan": "src.submission.plan.__main__"}  # of the others it is that of the command's name
HAND_INS = {"score_distillation": "src.submission.score_distillation"}  # --challenge -> the module that packs and checks it


def main() -> None:
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in ("-h", "--help"):
        print(__doc__)
        return
    if name not in COMMANDS:
        raise UserError(f"expected one of {', '.join(COMMANDS)}, got {name!r}: python -m src.submission {COMMANDS[0]} --help")
    first = Parser(add_help=False)
    first.add_argument("--challenge")
    asked = first.parse_known_args(rest)[0].challenge
    if asked in HAND_INS and name in ("pack", "check"):
        importlib.import_module(HAND_INS[asked]).main(name, rest)
    else:
        importlib.import_module(MODULES.get(name, f"src.submission.{name}")).main(rest)


if __name__ == "__main__":
    run_script(main)
