"""The leaderboard: one page, leaderboard.html, and the same as leaderboard.json and leaderboard.csv.

What submissions say of themselves (names, methods, plans, reasons) is not trusted: it is stripped of control and direction
marks, cut, escaped, and made harmless for spreadsheets. Pictures are drawn anew. The page loads nothing; its own script runs.
"""

import base64
import csv
import hashlib
import html
import io
import json
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from src.challenges import Published, get_challenge
from src.common.files import write_whole
from src.submission import bounds

FORMULA = re.compile(r"((?:^|[;\t\r\n])\s*)(?=[=+\-@|%\t\r\uff1d\uff0b\uff0d\uff20])")  # the last four are wide = + - @
HERE = Path(__file__).parent
OWN_CODE = """Their images are not proved to come from the network: what these samplers do could not be recorded as a plan, for
the reason that stands below each picture. They are ranked apart."""
COLUMNS = (
    *("nfe", "rank", "team", "submission", "method", "fid", "fid_spread", "fid_seeds", "fid_public"),
    *("kid", "kid_spread", "calls", "operations", "numbers", "own_code"),
    *("seeds", "num_images", "graded_at", "sha256", "code", "reason"),
)


@dataclass
class Entry:
    """A team at one NFE, as it is shown. rank is None where there is no FID."""

    team: str
    submission: str
    method: str
    sha256: str
    nfe: int
    fid: float | None
    fid_spread: float | None
    fid_seeds: list[float]
    fid_public: float | None  # of the images that the team has made itself, with the seed of the course
    kid: float | None
    kid_spread: float | None  # as fid_spread: over the seeds, None where there are not two
    calls: float | None
    operations: int | None  # of the plan, and how many numbers it holds; None without a plan
    numbers: int | None
    own_code: str | None  # why it was sampled by its own code, which is ranked apart
    seeds: int | None
    num_images: int | None
    graded_at: str
    rank: int | None = None
    plan: list[str] = field(default_factory=list, repr=False)  # its lines; like samples on the page alone
    samples: str = field(default="", repr=False)  # a data URI, or empty


def write_board(
    results: Sequence[dict[str, Any]],
    folder: Path,
    references: Sequence[Published] = (),
    title: str = "Few-step image generation",
    nfes: Sequence[int] = get_challenge().nfe,
) -> None:
    """Write leaderboard.html, .json and .csv into folder.

    Args:
        results: one per team, as the grader writes them. Each NFE with a finite FID is ranked, also where the team failed at
            others: the grader leaves out what shall not count. Paths of samples are relative to folder.
        references: rows without a rank, shown among the others.

    Raises UserError where the disk refuses a file.
    """
    entries = [entry for result in results for entry in read_entries(result, folder, nfes)]
    give_ranks(entries)
    lists = {
        "entries": [{name: value for name, value in vars(each).items() if name not in ("plan", "samples")} for each in entries],
        "failures": [failure for result in results for failure in read_failures(result)],
        "remarks": [remark for result in results for remark in read_remarks(result)],
    }
    latest = max((text(result.get("graded_at"), 32) for result in results), default="")
    rows = [{"name": each.name, "note": each.note, "fid": dict(each.scores)} for each in references]
    content = {"title": title, "updated": latest, "references": rows, **lists}
    files = {
        "leaderboard.json": json.dumps(content, indent=2, allow_nan=False) + "\n",
        "leaderboard.csv": "\ufeff" + as_csv([*lists["entries"], *lists["failures"]]),  # by the mark Excel knows UTF-8
        "leaderboard.html": as_html(title, latest, entries, lists["failures"], lists["remarks"], references, nfes),
    }
    for name, text_of_file in files.items():
        with write_whole(folder / name) as partial:
            partial.write_text(text_of_file, encoding="utf-8", newline="")


def text(value: Any, length: int) -> str:
    """One line of at most `length` characters, without control characters and marks that change the direction of reading.

    Letters that are blank are spaces. What joins or parts letters stays after one of a script that has it, and an emoji. Of
    combining marks two in a row are left, so that nothing towers over its line.
    """
    letters: list[str] = []
    marks, before = 0, ""
    for letter in unicodedata.normalize("NFC", str(value if value is not None else ""))[: 20 * length]:
        kind = unicodedata.category(letter)
        marks = marks + 1 if kind in ("Mn", "Me") else 0
        joins = letter in "\u200c\u200d" and before in ("Lo", "Mn", "Mc", "So", "Sk")
        if kind in ("Zs", "Zl", "Zp") or letter in "\t\r\n\u115f\u1160\u2800\u3164\uffa0":
            kind, letter = "Zs", " "
        elif marks > 2 or letter in "\u034f\u17b4\u17b5" or (kind[0] == "C" and not joins):
            continue
        letters.append(letter)
        before = kind
    line = " ".join("".join(letters).split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "\u2026"


def number(value: Any) -> float | None:
    """A finite number, or None."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if good else None


def read_entries(result: dict[str, Any], folder: Path, nfes: Sequence[int]) -> list[Entry]:
    """The entries of a team, one for each NFE it has a FID at. Results of earlier graders have no plan, and say kid_error."""
    found = []
    for nfe in nfes:
        values = (result.get("nfe") or {}).get(str(nfe)) or {}
        if number(values.get("fid")) is None:
            continue
        plan, why = values.get("plan") or {}, values.get("own_code")
        seeds = [seed for seed in values.get("fid_seeds") or [] if number(seed) is not None]
        spread = values if len(seeds) > 1 else {}
        numbers = {name: values.get(name) for name in ("fid", "fid_public", "kid", "calls")}
        numbers |= {name: plan.get(name) for name in ("operations", "numbers")}
        numbers |= {name: result.get(name) for name in ("seeds", "num_images")}
        numbers |= {"fid_spread": spread.get("fid_spread"), "kid_spread": spread.get("kid_spread", spread.get("kid_error"))}
        lines = [text(line, bounds.LINE_LENGTH) for line in (plan.get("lines") or [])[: bounds.PLAN_LINES]]
        if (left := len(plan.get("lines") or []) - bounds.PLAN_LINES) > 0:
            lines[-1] = f"\u2026 {left + 1:,} more lines are in the team's result.json"
        found.append(
            Entry(
                **read_team(result),
                method=text(result.get("method"), bounds.NAME_LENGTH),
                nfe=nfe,
                fid_seeds=seeds,
                **{name: number(value) for name, value in numbers.items()},
                own_code=None if why is None else text(why, bounds.REASON_LENGTH) or "no reason was given",
                plan=lines,
                samples=picture(folder, values.get("samples")),
            )
        )
    return found


def read_failures(result: dict[str, Any]) -> list[dict[str, str]]:
    """Why a team failed, at each NFE where it did or once for all; a reason is `code: one line`."""
    reasons = list((result.get("failures") or {}).values())
    if result.get("status") != "graded" or result.get("reason"):
        reasons = reasons or [result.get("reason") or "failed: no reason was given"]
    parts = [reason.partition(":") for reason in dict.fromkeys(map(str, reasons))]
    return [
        {**read_team(result), "code": text(code, 40), "reason": text(line, bounds.REASON_LENGTH)} for code, _, line in parts
    ]


def read_remarks(result: dict[str, Any]) -> list[dict[str, str]]:
    """What the staff and the team should know of a submission, and what costs it nothing."""
    lines = [text(remark, bounds.REASON_LENGTH) for remark in result.get("remarks") or []]
    return [{**read_team(result), "remark": line} for line in lines if line]


def read_team(result: dict[str, Any]) -> dict[str, str]:
    lengths = {"team": bounds.NAME_LENGTH, "submission": bounds.NAME_LENGTH, "sha256": 64, "graded_at": 32}
    found = {name: text(result.get(name), length) for name, length in lengths.items()}
    return found | {"team": found["team"] or "(no name)"}


def give_ranks(entries: list[Entry]) -> None:
    """Rank each NFE by FID as it is shown, to two decimals, own code apart; equal ones share a rank, the next is left out."""
    places = [(entry.nfe, entry.own_code is None, round(entry.fid, 2)) for entry in entries]
    for entry, place in zip(entries, places, strict=True):
        entry.rank = 1 + sum(other[:2] == place[:2] and other < place for other in places)


def picture(folder: Path, path: Any) -> str:
    """The picture at this path in folder, drawn anew as a data URI; empty where there is none, or none that can be shown."""
    file = (folder / str(path)).resolve() if path else folder
    if not file.is_relative_to(folder.resolve()) or not file.is_file():
        return ""
    try:
        with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > bounds.PICTURE_PIXELS:
                return ""
            fresh = Image.new("RGB", image.size, "white")
            fresh.paste(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError):  # what Pillow says of damaged files
        return ""
    if max(fresh.size) > bounds.SHEET_PIXELS:
        fresh.thumbnail((bounds.SHEET_PIXELS, bounds.SHEET_PIXELS))
    stored = io.BytesIO()
    fresh.save(stored, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(stored.getvalue()).decode()


def as_csv(rows: list[dict[str, Any]]) -> str:
    """A row for each team and NFE, then one for each failure."""
    stored = io.StringIO()
    writer = csv.DictWriter(stored, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for row in rows:
        values = {**row, "fid_seeds": " ".join(map(str, row.get("fid_seeds", [])))}
        writer.writerow({name: no_formula(value) for name, value in values.items()})
    return stored.getvalue()


def no_formula(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula, at its start or behind what it may cut cells at, gets an apostrophe."""
    return FORMULA.sub(r"\1'", value) if isinstance(value, str) else value


def as_html(
    title: str,
    latest: str,
    entries: list[Entry],
    failures: list[dict[str, str]],
    remarks: list[dict[str, str]],
    references: Sequence[Published],
    nfes: Sequence[int],
) -> str:
    """The page. Only the digests of its own style and script are allowed to act."""
    style, script = (f"\n{(HERE / name).read_text(encoding='utf-8')}" for name in ("board.css", "board.js"))
    digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in (style, script)]
    allowed = f"style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'"
    teams = len({(entry.team, entry.sha256) for entry in entries})
    counts = sorted({(entry.num_images, entry.seeds) for entry in entries if entry.num_images and entry.seeds})
    measured = ", ".join(f"{images:g} images for each of {seeds:g} secret seeds" for images, seeds in counts)
    lists = {
        "Failures": ("Submissions that were not graded, or not at every NFE, and why.", failures),
        "Remarks": ("What was noticed, and costs nothing.", remarks),
    }
    sections = "".join(nfe_section(nfe, entries, references) for nfe in nfes)
    links = "".join(f'<a href="#nfe{nfe}">NFE {nfe}</a>' for nfe in nfes)
    for name, (caption, rows) in lists.items():
        if rows:
            sections += team_section(name, caption, rows)
            links += f'<a href="#{name.lower()}">{name}</a>'
    return Template((HERE / "board.html").read_text(encoding="utf-8")).substitute(
        policy=f"default-src 'none'; img-src data:; {allowed}; base-uri 'none'; form-action 'none'",
        title=html.escape(title),
        style=style,
        teams=f"{teams} team" if teams == 1 else f"{teams} teams",
        calls=" and ".join(filter(None, (", ".join(map(str, nfes[:-1])), str(nfes[-1])))),
        measured=html.escape("; ".join(part for part in (measured, latest and f"last graded {latest}") if part)),
        links=links,
        sections=sections,
        script=script,
    )


def nfe_section(nfe: int, entries: list[Entry], references: Sequence[Published]) -> str:
    """The table of one NFE, and below it that of those sampled by their own code, where there are any."""
    mine = [entry for entry in entries if entry.nfe == nfe]
    others = [(reference.scores[nfe], reference) for reference in references if nfe in reference.scores]
    full = max([*(entry.fid for entry in mine), *(fid for fid, _ in others)], default=1.0)
    rows = [(each.own_code is None, each.fid, entry_row(each, full)) for each in mine]
    planned, own = ([row for of_plan, *row in rows if of_plan is kind] for kind in (True, False))
    planned += [(fid, reference_row(reference, fid, full)) for fid, reference in others]
    caption = f"{'One network call' if nfe == 1 else f'{nfe} network calls'} per image. Press a heading to sort."
    tables = fid_table(caption, planned)
    if own:
        tables += "<h3>Sampled by their own code</h3>\n" + fid_table(OWN_CODE, own)
    return section(f"nfe{nfe}", f"NFE {nfe}", tables)


def fid_table(caption: str, rows: list[tuple[float, str]]) -> str:
    """A table by FID; rows are (FID, HTML), and equal ones stay in their order."""
    head = heading("Rank", "number") + heading("Team", "text") + heading("FID", "number", "ascending")
    head += "".join(heading(label, "number") for label in ("Public seed", "KID", "Calls")) + heading("Samples")
    return table(caption, head, [row for _, row in sorted(rows, key=lambda row: row[0])])


def entry_row(entry: Entry, full: float) -> str:
    seeds = ", ".join(f"{seed:.2f}" for seed in entry.fid_seeds[:20])
    fid = f'<span title="{seeds}">{figure(entry.fid, ".2f", entry.fid_spread)}</span>'
    kid, spread = (None if value is None else 1000 * value for value in (entry.kid, entry.kid_spread))
    sheet = "no picture"
    if entry.samples:
        alt = html.escape(f"{entry.team}, samples at NFE {entry.nfe}", quote=True)
        sheet = f'<button type="button" class="sheet"><img src="{entry.samples}" alt="{alt}"></button>'
    cells = [
        cell("Rank", entry.rank, str(entry.rank), "number rank"),
        name_cell(entry.team, [entry.method, entry.submission, entry.sha256[:8]]),
        cell("FID", entry.fid, fid + bar(entry.fid, full)),
        cell("FID, public seed", entry.fid_public, figure(entry.fid_public, ".2f")),
        cell("KID x 1,000", kid, figure(kid, ".2f", spread)),
        cell("Calls per image", entry.calls, figure(entry.calls, "g")),
        f'<td class="samples wide">{sheet}{how_sampled(entry)}</td>',
    ]
    return f'<tr class="rank{entry.rank}">{"".join(cells)}</tr>'


def how_sampled(entry: Entry) -> str:
    """A plan behind a click, each line set apart from the direction of reading of the others, or why there is none."""
    if entry.own_code is not None:
        return f'<p class="reason soft"><bdi>{html.escape(entry.own_code)}</bdi></p>'
    lines = "\n".join(f'<bdi dir="ltr">{html.escape(line)}</bdi>' for line in entry.plan)
    counts = f"{figure(entry.operations, ',')} operations, {figure(entry.numbers, ',')} numbers"
    return f'<details><summary>Plan: {counts}</summary><pre tabindex="0">{lines}</pre></details>' if lines else ""


def reference_row(reference: Published, fid: float, full: float) -> str:
    rank = '<td class="number rank" data-label="Rank">\u2013</td>'
    cells = name_cell(reference.name, [reference.note]) + cell("FID", fid, f"{fid:.1f}{bar(fid, full)}") + "<td></td>" * 4
    return f'<tr class="reference">{rank}{cells}</tr>'


def team_section(title: str, caption: str, rows: list[dict[str, str]]) -> str:
    """A table of failures, which have a code and a reason, or of remarks."""
    head, lines = heading("Team", "text"), []
    head += heading("Reason", "text") + heading("What happened") if "code" in rows[0] else heading("Remark")
    for row in rows:
        line = name_cell(row["team"], [row["submission"], row["sha256"][:8]])
        if "code" in row:
            line += f'<td data-value="{html.escape(row["code"], quote=True)}"><code>{html.escape(row["code"])}</code></td>'
        words = html.escape(row["reason" if "code" in row else "remark"])
        lines.append(f'<tr>{line}<td class="reason wide"><bdi>{words}</bdi></td></tr>')
    return section(title.lower(), title, table(caption, head, lines))


def heading(label: str, kind: str = "", order: str = "none") -> str:
    """A column's heading; with a kind (number, text) it sorts."""
    if not kind:
        return f'<th scope="col">{label}</th>'
    css = ' class="number"' if kind == "number" else ""
    return f'<th scope="col"{css} data-kind="{kind}" aria-sort="{order}"><button type="button">{label}</button></th>'


def cell(label: str, value: float | None, shown: str, css: str = "number") -> str:
    """A cell that sorts by value; shown is HTML already."""
    key = "" if value is None else f' data-value="{value:.10g}"'
    return f'<td class="{css}" data-label="{label}"{key}>{shown}</td>'


def name_cell(name: str, below: Sequence[str]) -> str:
    """A team's name as a row's heading, with a line below; both are set apart from the direction of reading around them."""
    key = html.escape(name.casefold(), quote=True)
    line = " \u00b7 ".join(f"<bdi>{html.escape(part)}</bdi>" for part in below if part)
    return f'<th scope="row" class="name" data-value="{key}"><bdi>{html.escape(name)}</bdi><small>{line}</small></th>'


def figure(value: float | None, form: str, spread: float | None = None) -> str:
    """A number as it is shown, with its spread below; empty for None."""
    below = "" if spread is None else f" <small>\u00b1 {spread:{form}}</small>"
    return "" if value is None else f"{value:{form}}{below}"


def bar(value: float, full: float) -> str:
    """A bar as long as value is of full."""
    share = max(0.0, min(1.0, value / full)) if full > 0 else 0.0
    track, box = '<rect class="track" width="100" height="5"/>', 'viewBox="0 0 100 5" preserveAspectRatio="none"'
    return f'<svg class="bar" {box} aria-hidden="true">{track}<rect width="{100 * share:.1f}" height="5"/></svg>'


def section(name: str, title: str, content: str) -> str:
    return f'<section id="{name}" aria-label="{title}">\n<h2>{title}</h2>\n{content}</section>\n'


def table(caption: str, head: str, rows: list[str]) -> str:
    lines = ["<table>", f"<caption>{caption}</caption>", f"<thead><tr>{head}</tr></thead>", "<tbody>", *rows]
    return "\n".join([*lines, "</tbody>", "</table>", ""])
