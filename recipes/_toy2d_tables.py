"""What recipes/toy2d.py writes: the tables and the picture."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from src.challenges import Challenge
from src.challenges._points import POINT_SETS
from src.common.figures import Figure
from src.common.files import write_whole

FLOOR_SEEDS = (2, 3, 4)  # of points; those of training and of the held-out ones are others
FIGURE_SETS = ("swiss_roll", "eight_gaussians")

Lines = Mapping[str, dict[str, Any]]  # by method


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


def verdicts(challenge: Challenge, done: Lines) -> list[str]:
    """A line for each mark of the challenge that a stored run speaks of: all its seeds have to reach it."""
    lines = []
    for mark in challenge.marks:
        found = values(done, mark.method, mark.root, mark.nfe, mark.metric)
        if found:
            passed = all(value is not None and mark.passes(value) for value in found)
            lines.append(f"- {mark}: {cell(found)}, **{'pass' if passed else 'fail'}**")
    return lines


def mean(done: Lines, method: str, data: str, nfe: int = 1) -> float:
    """The mean Chamfer distance over the seeds."""
    return float(np.mean(values(done, method, data, nfe, "chamfer")))


def remarks(done: Lines, methods: Sequence[str], sets: Sequence[str], baseline: str = "rectified_flow") -> list[str]:
    """How many times nearer than the baseline each method is at NFE 1, and where its mean at NFE 4 is the worse one.

    All in Chamfer distances; NFE 1 and 4 must be among the challenge's.
    """
    lines = []
    for method in methods:
        if method == baseline or method not in done:
            continue
        finite = [data for data in sets if None not in values(done, method, data, 1, "chamfer")]
        nearer = [
            f"{mean(done, baseline, data) / mean(done, method, data):.3g}x on {data}"
            for data in finite
            if data in FIGURE_SETS and baseline in done
        ]
        worse = [
            f"{data} ({short(mean(done, method, data))} to {short(mean(done, method, data, 4))})"
            for data in finite
            if mean(done, method, data, 4) > mean(done, method, data)
        ]
        lines.append(
            f"- `{method}`: NFE 1 nearer than {baseline}'s by {', '.join(nearer) or '-'}; worse at NFE 4 than at NFE 1 on "
            f"{', '.join(worse) or 'none'}"
        )
    return lines


def costs(done: Lines, teachers: Mapping[str, str | None]) -> list[str]:
    """Iterations and training time of each method, and time of the teacher it needed, per network: rows of a table."""
    rows = ["| method | iterations | core-seconds per network | its teacher's |", "|---|---|---|---|"]
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
        rows.append(f"| {method} | {steps} | {line['train_core_seconds'] / networks:.1f} | {extra} |")
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
) -> str:
    """The whole document: how it was made, what is missing, Chamfer distances, the two other figures, costs."""
    spread = f"{seeds} seeds ± their standard deviation" if seeds > 1 else "1 seed"
    head = " | ".join(f"NFE {nfe}" for nfe in challenge.nfe)
    rule = "|---" * (2 + len(challenge.nfe)) + "|"
    distances, others = [f"| points | method | {head} |", rule], [f"| points | method | {head} |", rule]
    for data in sets:
        for method in methods:
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
        f"Every method learns {challenge.about}, {training}. {challenge.num_samples} samples are compared with as many "
        f"held-out points. Figures are means over {spread}; less is better. *real points* are fresh draws against the same "
        f"held-out points ({len(FLOOR_SEEDS)} draws): what a perfect generator would reach.",
    ]
    if missing := [method for method in methods if method not in done]:
        lines += ["", f"**Missing: {', '.join(missing)}.**"]
    if given := [f"{name} {json.dumps(options[name])}" for name in methods if name in options]:
        lines += ["", "Options that differ from the methods' defaults for images: " + "; ".join(given) + "."]
    lines += ["", "## Chamfer distance", "", "Squared distances to the nearest neighbour, summed both ways.", "", *distances]
    if found := verdicts(challenge, done) + remarks(done, methods, sets):
        lines += ["", *found]
    lines += ["", "## Sliced Wasserstein-2 distance / squared MMD", "", *others]
    if seconds:
        lines += ["", "## Cost", "", *costs(done, teachers)]
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
