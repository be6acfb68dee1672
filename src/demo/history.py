"""What a run has written of itself, as the page shows it: curves and scores."""

from collections.abc import Callable, Mapping
from typing import Any

from src.runs import Run

Point = dict[str, Any]  # of a curve: SEEN, VALUE, and the name of its CURVE
SEEN, VALUE, CURVE = "images seen", "value", "curve"


def curves(run: Run) -> dict[str, list[Point]]:
    """Title -> points of the curves of a run's log: its losses, and its scores on a development split; only what there is."""
    rows = run.log()
    panels = {
        "training loss": _points(rows, lambda name: name.startswith("loss")),
        "score on the development split": _points(rows, lambda name: "_nfe" in name),
    }
    return {title: points for title, points in panels.items() if points}


def _points(rows: list[dict[str, Any]], wanted: Callable[[str], bool]) -> list[Point]:
    found = []
    for row in rows:
        average = f", EMA {row['ema_half_life']}" if "ema_half_life" in row else ""
        found += [
            {SEEN: row["images_seen"], VALUE: value, CURVE: name + average}
            for name, value in row.items()
            if wanted(name) and isinstance(value, float)
        ]
    return found


def scores(run: Run, titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """What measure_fid.py found of a run's samples, a line for each score, the last first.

    titles: a score's name in the run's file -> what it is called.
    """
    return [
        {
            "NFE": row.get("nfe"),
            "score": f"{row[name]:.2f}",
            "of": title,
            "samples": row.get("num_generated"),
            "steps": row.get("step"),
        }
        for row in reversed(run.metrics())
        for name, title in titles.items()
        if name in row
    ]
