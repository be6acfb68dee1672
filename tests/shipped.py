"""What the kit ships, told from what somebody has put beside it: a file of one's own in src/methods/ or src/challenges/.

What every method and challenge must hold is tested of all of them. What only the kit asks of its own (a picture, a section of
the documents, its papers in CITATION.cff, the rules between rooms) is tested of those that README.md's tables name.
"""

import re
from pathlib import Path

from src.common.files import PROJECT_ROOT


def names_in_readme(flag: str) -> list[str]:
    """The names in the first column of README.md's table whose head is this flag."""
    text = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    _, table = text.split(f"\n| `{flag}` |")
    rows = table.partition("\n\n")[0].splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


METHODS = names_in_readme("--method")
CHALLENGES = names_in_readme("--challenge")


def is_own(path: Path) -> bool:
    """Whether a file, or the folder it is in, is a method or a challenge that README.md does not name."""
    for room, shipped in (("methods", METHODS), ("challenges", CHALLENGES)):
        folder = PROJECT_ROOT / "src" / room
        if folder in path.parents:
            name = path.relative_to(folder).parts[0].removesuffix(".py")
            return not name.startswith("_") and name not in (*shipped, "shared")
    return False
