"""What recipes/toy2d.py writes: the tables and the picture."""

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from recipes.shared import compare as compare
from src.challenges import Challenge
from src.challenges.toy2d.points import POINT_SETS
from src.common.figures import Figure
from src.common.files import write_whole

FLOOR_SEEDS = (2, 3, 4)  # of points; those of training and of the held-out ones are others
FIGURE_SETS = ("swiss_roll", "eight_gaussians")
BASELINE = "rectified_flow"

Lines = Mapping[str, dict[str, Any]]  # by the names of the experiments
DISTANCES, OTHERS, COST = "Chamfer distance", "Sliced Wasserstein-2 distance / squared MMD", "Cost"  # headings
OPTIONS = "Options that differ from the methods' defaults for images: "


@dataclass
class Earlier:
    """A table that stands already, whose rows are kept where no stored experiment has their place.

    about: its paragraph on data and training. rows: (heading, set or "", method) -> the row. remarks: method or mark -> its
    line. options: method -> those that the document tells, as JSON. sources: method -> how it was measured.
    """

    about: str = ""
    rows: dict[tuple[str, str, str], str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> "Earlier":
        """Of a document that table() wrote; of one that is absent nothing."""
        earlier, heading = cls(), ""
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        for line in lines:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if line.startswith("## "):
                heading = line.removeprefix("## ")
            elif line.startswith("Every method learns"):
                earlier.about = line
            elif line.startswith(OPTIONS):
                earlier.options = dict(re.findall(r"(\S+) (\{[^}]*\})", line.removeprefix(OPTIONS)))
            elif line.startswith("|") and heading in (DISTANCES, OTHERS) and cells[1] not in ("method", "---", "*real points*"):
                earlier.rows[heading, cells[0], cells[1]] = line
            elif line.startswith("|") and heading == COST and cells[0] not in ("method", "---"):
                earlier.rows[heading, "", cells[0]] = line
            elif match := re.match(r"- (?:`([^`]+)`|(.*?): [^:]*\*\*(?:pass|fail)\*\*$)", line):
                earlier.remarks[match[1] or match[2]] = line
        source = next((line for line in lines if line.startswith(compare.SOURCE)), "")
        known = compare.sources(lines)
        earlier.sources = {name: known.get(name, source) for _, _, name in earlier.rows}
        return earlier

    def without(self, done: Lines, about: str) -> "Earlier":
        """What of it stands beside these experiments: nothing where its data or training are others."""
        if self.about != about:
            if self.about:
                print("docs/toy2d.md was measured with other numbers of seeds or iterations: its rows are left out")
            return Earlier()
        rows = {key: row for key, row in self.rows.items() if key[2] not in done}
        sources = {name: self.sources[name] for _, _, name in rows}
        options = {name: text for name, text in self.options.items() if name in sources}
        return Earlier(about, rows, self.remarks, options, sources)

    def mean(self, method: str, data: str, nfe: int, challenge: Challenge) -> float | None:
        """A mean of the table of distances."""
        row = self.rows.get((DISTANCES, data, method))
        cell = row.strip("|").split("|")[2 + challenge.nfe.index(nfe)] if row else ""
        match = re.match(r" *([\d.]+)", cell)
        return float(match[1]) if match else None


def values(done: Lines, method: str, data: str, nfe: int, metric: str) -> list[float | None]:
    """One figure over the seeds."""
    if method not in done or data not in done[method]["figures"]:
        return []
    return [row[metric] for row in done[method]["figures"][data][str(nfe)]]


def held_out(challenge: Challenge, data: str) -> np.ndarray:
    """The points that samples are compared with."""
    return challenge.load("val", data)[0][: challenge.num_samples]


def floor(challenge: Challenge, data: str) -> dict[str, list[float]]:
    """The figures of fresh real points against the held-out ones, over FLOOR_SEEDS: what a perfect generator would reach."""
    real = held_out(challenge, data)
    rows = [challenge.measure(POINT_SETS[data](challenge.num_samples, seed), real) for seed in FLOOR_SEEDS]
    return {name: [row[name] for row in rows] for name in challenge.metrics}


def short(value: float, digits: int = 3) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.{digits}g}"


def cell(found: list[float | None], spread: bool = True) -> str:
    """Mean and standard deviation over the seeds; "-" if there is none, "not finite" if one is not."""
    if not found:
        return "-"
    if None in found:
        return "not finite"
    return short(np.mean(found)) + (f" ± {short(np.std(found, ddof=1), 2)}" if spread and len(found) > 1 else "")


def verdicts(challenge: Challenge, done: Lines) -> dict[str, str]:
    """Mark -> its line, of each mark of the challenge that a stored run speaks of: all its seeds have to reach it."""
    lines = {}
    for mark in challenge.marks:
        found = values(done, mark.method, mark.root, mark.nfe, mark.metric)
        if found:
            passed = all(value is not None and mark.passes(value) for value in found)
            lines[str(mark)] = f"- {mark}: {cell(found)}, **{'pass' if passed else 'fail'}**"
    return lines


def mean(done: Lines, method: str, data: str, nfe: int = 1) -> float:
    """The mean Chamfer distance over the seeds."""
    return float(np.mean(values(done, method, data, nfe, "chamfer")))


def remarks(done: Lines, methods: Sequence[str], sets: Sequence[str], known: Mapping[str, float | None]) -> dict[str, str]:
    """Of each method that is done: how many times nearer than BASELINE it is at NFE 1, and where it is worse at NFE 4.

    All in mean Chamfer distances; NFE 1 and 4 must be among the challenge's. known: those of BASELINE at NFE 1 by set, for sets
    where it is not done.
    """
    lines = {}
    first = {data: mean(done, BASELINE, data) if BASELINE in done else known.get(data) for data in sets}
    for method in methods:
        if method == BASELINE or method not in done:
            continue
        finite = [data for data in sets if None not in values(done, method, data, 1, "chamfer")]
        nearer = [
            f"{first[data] / mean(done, method, data):.3g}x on {data}"
            for data in finite
            if data in FIGURE_SETS and first[data] is not None
        ]
        worse = [
            f"{data} ({short(mean(done, method, data))} to {short(mean(done, method, data, 4))})"
            for data in finite
            if mean(done, method, data, 4) > mean(done, method, data)
        ]
        lines[method] = (
            f"- `{method}`: NFE 1 nearer than {BASELINE}'s by {', '.join(nearer) or '-'}; worse at NFE 4 than at NFE 1 on "
            f"{', '.join(worse) or 'none'}"
        )
    return lines


def costs(done: Lines, teachers: Mapping[str, str | None]) -> dict[str, str]:
    """Iterations and training time of each method, and time of the teacher it needed, per network: a table's rows."""
    rows = {}
    for method, line in done.items():
        if "train_core_seconds" not in line:
            continue
        networks = len(line["run"]["sets"]) * line["run"]["seeds"]
        teacher = teachers.get(method)
        extra = (
            f"{done[teacher]['train_core_seconds'] / networks:.1f} ({teacher})"
            if "train_core_seconds" in done.get(teacher, {})
            else teacher or "-"
        )
        steps = json.loads(line["key"])["steps"]
        rows[method] = f"| {method} | {steps} | {line['train_core_seconds'] / networks:.1f} | {extra} |"
    return rows


def table(
    challenge: Challenge,
    done: Lines,
    methods: Sequence[str],
    sets: Sequence[str],
    seeds: int,
    training: str,
    options: Mapping[str, dict[str, Any]],
    teachers: Mapping[str, str | None],
    command: str,
    earlier: Earlier,
) -> str:
    """The whole document: how it was made, what is missing, Chamfer distances, the two other figures, costs.

    Rows of `earlier` stand where these experiments have none, if their data and training were the same.
    """
    spread = f"{seeds} seeds ± their standard deviation" if seeds > 1 else "1 seed"
    about = (
        f"Every method learns {challenge.about}, {training}. {challenge.num_samples} samples are compared with as many "
        f"held-out points. Figures are means over {spread}; less is better. *real points* are fresh draws against the same "
        f"held-out points ({len(FLOOR_SEEDS)} draws): what a perfect generator would reach."
    )
    earlier = earlier.without(done, about)
    names = sorted({*methods, *earlier.sources})
    head = " | ".join(f"NFE {nfe}" for nfe in challenge.nfe)
    rule = "|---" * (2 + len(challenge.nfe)) + "|"
    distances, others = [f"| points | method | {head} |", rule], [f"| points | method | {head} |", rule]
    for data in sets:
        for method in names:
            if (DISTANCES, data, method) in earlier.rows:
                distances.append(earlier.rows[DISTANCES, data, method])
                others.append(earlier.rows[OTHERS, data, method])
                continue
            found = {metric: [values(done, method, data, nfe, metric) for nfe in challenge.nfe] for metric in challenge.metrics}
            distances.append(f"| {data} | {method} | " + " | ".join(map(cell, found["chamfer"])) + " |")
            pairs = zip(found["sliced_w2"], found["mmd"], strict=True)
            cells = [f"{cell(w2, spread=False)} / {cell(kernel, spread=False)}" for w2, kernel in pairs]
            others.append(f"| {data} | {method} | " + " | ".join(cells) + " |")
        real = floor(challenge, data)
        empty = " |" * (len(challenge.nfe) - 1)
        distances.append(f"| {data} | *real points* | {cell(real['chamfer'])} |" + empty)
        pair = f"{cell(real['sliced_w2'], spread=False)} / {cell(real['mmd'], spread=False)}"
        others.append(f"| {data} | *real points* | {pair} |" + empty)
    dates = sorted({line["date"] for line in done.values()}) or ["no runs yet"]
    seconds = [line["core_seconds"] for line in done.values() if "core_seconds" in line]
    lines = [
        "# Points in the plane",
        "",
        f"`{command}`, {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, numpy {np.__version__}, scipy {scipy.__version__}, {processor()}: {len(done)} methods"
        f"{f', {sum(seconds):.0f} core-seconds in all' if len(seconds) == len(done) else ''}.",
        "",
        about,
        *compare.tell_sources(earlier.sources),
    ]
    if missing := [method for method in methods if method not in done and method not in earlier.sources]:
        lines += ["", f"**Missing: {', '.join(missing)}.**"]
    given = earlier.options | {name: json.dumps(options[name]) for name in methods if name in options and name in done}
    if given:
        lines += ["", OPTIONS + "; ".join(f"{name} {given[name]}" for name in sorted(given)) + "."]
    lines += ["", f"## {DISTANCES}", "", "Squared distances to the nearest neighbour, summed both ways.", "", *distances]
    known = {data: earlier.mean(BASELINE, data, 1, challenge) for data in sets}
    said = {**earlier.remarks, **verdicts(challenge, done), **remarks(done, methods, sets, known)}
    if found := [said[name] for name in (*map(str, challenge.marks), *names) if name in said]:
        lines += ["", *found]
    lines += ["", f"## {OTHERS}", "", *others]
    spent = {name: row for (heading, _, name), row in earlier.rows.items() if heading == COST} | costs(done, teachers)
    if spent:
        lines += [
            "",
            f"## {COST}",
            "",
            "| method | iterations | core-seconds per network | its teacher's |",
            "|---|---|---|---|",
        ]
        lines += [spent[name] for name in sorted(spent)]
    return "\n".join(lines) + "\n"


def processor() -> str:
    """The name of the processor and its number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} ({os.cpu_count()} cores)"


def figure(challenge: Challenge, methods: Sequence[str], sets: Sequence[str], points: Mapping[str, Path], path: Path) -> None:
    """The first seed's samples over real points: a row per method, a column per NFE, two sets side by side.

    points: the file of samples of each method that has one.
    """
    shown = [data for data in FIGURE_SETS if data in sets] or sets[:2]
    width, height = 1.7 * len(shown) * len(challenge.nfe), 1.7 * len(methods) + 0.5
    page = Figure(figsize=(width, height), layout="constrained")
    axes = page.subplots(len(methods), len(shown) * len(challenge.nfe), squeeze=False)
    for row, method in enumerate(methods):
        samples = np.load(points[method]) if method in points and points[method].is_file() else {}
        for column, (data, nfe) in enumerate(product(shown, challenge.nfe)):
            axis = axes[row, column]
            real = held_out(challenge, data)
            axis.scatter(*real.T, s=1.5, c="0.82", linewidths=0)
            if f"{data}-{nfe}" in samples:
                axis.scatter(*samples[f"{data}-{nfe}"].T, s=1.5, c="C0", linewidths=0)
            edge = 1.25 * np.abs(real).max()
            axis.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal", xticks=[], yticks=[])
            if row == 0:
                axis.set_title(f"{data.replace('_', ' ')}\nNFE {nfe}" if nfe == challenge.nfe[0] else f"NFE {nfe}", fontsize=9)
            if column == 0:
                axis.set_ylabel(method, fontsize=9)
            for side in axis.spines.values():
                side.set_color("0.8")
    with write_whole(path) as partial:
        page.savefig(partial, format="png", dpi=110)
