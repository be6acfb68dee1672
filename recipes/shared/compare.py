"""What the recipes that compare methods share: options from the command line, and rows of a table that stands already."""

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from src.challenges import Challenge
from src.common.cli import Parser, UserError, did_you_mean
from src.common.files import PROJECT_ROOT
from src.common.options import add_option_flags, default_of
from src.methods import get_method

DOCS = PROJECT_ROOT / "docs"
SOURCE = "`python -m recipes."  # how the paragraph begins that says how a table was made
KEPT = re.compile(r"Measured before, (`.*?`): (.*)")
SWITCHES = {"true": "", "false": "no-"}


def add_flags(parser: argparse.ArgumentParser, choices: Sequence[str], what: str, out: str) -> None:
    """--methods, --options, --out and --docs, as all these recipes have them; parse() reads them."""
    parser.add_argument("--methods", nargs="+", choices=choices, help=f"{what}; all of them if neither this nor --options")
    options_help = "a row of its own: this method with these options, a list's values with commas; may be given again"
    metavar = ("METHOD", "KEY=VALUE")
    parser.add_argument("--options", nargs="+", action="append", default=[], metavar=metavar, help=options_help)
    parser.add_argument("--out", type=Path, default=PROJECT_ROOT / "results" / out, help="where everything is kept")
    docs_help = "folder of the table and of images/, such as docs for the kit's own; that of --out if not given"
    parser.add_argument("--docs", type=Path, help=docs_help)


def parse(parser: argparse.ArgumentParser, choices: Sequence[str]) -> argparse.Namespace:
    """The flags, with what was not given filled in: for --methods all choices, if no --options either; for --docs --out."""
    args = parser.parse_args()
    args.docs = args.docs or args.out
    if args.methods is None:
        args.methods = [] if args.options else list(choices)
    return args


def read_options(words: Sequence[str], method: str, choices: Sequence[str], challenge: Challenge) -> dict[str, Any]:
    """One --options, checked: the options of its method by name, of the types that train.py's flags give them.

    words: a row of the table, then key=value. method: what that row trains. Raises UserError for a word that is none of these.
    """
    name, *pairs = words
    if name not in choices:
        raise UserError(f"--options {name}: expected one of {', '.join(choices)}{did_you_mean(name, choices)}")
    items = {item.name: item for item in fields(get_method(method).Config)}
    parser = Parser(prog=f"--options {name}", add_help=False)
    add_option_flags(parser, items.values())
    flags: list[str] = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in items:
            meant = did_you_mean(key, items) or f"; python train.py --method {method} --help lists them"
            raise UserError(f"--options {name}: expected KEY=VALUE with an option of {method}, got {pair!r}{meant}")
        default = default_of(items[key])
        if isinstance(default, bool):
            if value not in SWITCHES:
                raise UserError(f"--options {name}: expected {key}=true or {key}=false, got {pair!r}")
            flags.append(f"--{SWITCHES[value]}{key}")
        elif isinstance(default, (list, tuple)):
            flags += [f"--{key}", *filter(None, value.split(","))]
        else:
            flags.append(f"--{key}={value}")
    given = vars(parser.parse_args(flags))
    named = {pair.partition("=")[0] for pair in pairs}
    options = {key: tuple(given[key]) if isinstance(given[key], list) else given[key] for key in items if key in named}
    try:
        get_method(method).Config(**{**challenge.method_options.get(method, {}), **options})
    except ValueError as error:
        raise UserError(f"--options {name}: {error}") from error
    return options


def row_name(method: str, options: dict[str, Any]) -> str:
    """How a row with options of its own is called, also as a folder: "edm,P_mean=0.5,solver=euler"."""
    values = {key: "+".join(map(str, value)) if isinstance(value, (list, tuple)) else value for key, value in options.items()}
    return ",".join([method, *(f"{key}={value}" for key, value in values.items())])


def earlier_rows(file: Path, same: str, done: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Row's name -> its line in a table that stands already, and how it was measured; of the rows that are not done.

    None where the document is absent or does not say `same`: what makes two tables comparable.
    """
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    lines = text.splitlines()
    source = next((line for line in lines if line.startswith(SOURCE)), None)
    if source is None:
        return {}
    if same not in text:
        print(f"{file}: measured with other settings, so its rows are left out; they would be taken where it says: {same}")
        return {}
    rows = {match[1]: line for line in lines if (match := re.match(r"\| `([^`]+)` \|", line))}
    return {name: (line, sources(lines).get(name, source)) for name, line in rows.items() if name not in set(done)}


def first_number(row: str) -> float:
    """What rows of a table are sorted by: the number in the second column."""
    return float(re.match(r"[-+.\w]*", row.split("|")[2].strip())[0])


def sources(lines: Iterable[str]) -> dict[str, str]:
    """Row's name -> how it was measured, of the rows that a document has kept of the one before it."""
    matches = filter(None, map(KEPT.fullmatch, lines))
    return {name: match[2] for match in matches for name in re.findall("`([^`]+)`", match[1])}


def source_lines(kept: dict[str, str]) -> list[str]:
    """The lines that sources() reads. kept: row's name -> how it was measured."""
    lines = []
    for source in dict.fromkeys(kept.values()):
        names = ", ".join(f"`{name}`" for name in kept if kept[name] == source)
        lines += ["", f"Measured before, {names}: {source}"]
    return lines
