"""What a run has written of itself, as the page shows it: curves, and what measure_fid.py measured of its samples."""

from collections.abc import Callable, Mapping
from typing import Any

from src.page.samples import Request
from src.page.sources import Loaded
from src.runs import Run

Point = dict[str, Any]  # of a curve: SEEN, VALUE, and the name of its CURVE
Row = Mapping[str, Any]  # of the run's file of scores
SEEN, VALUE, CURVE = "images seen", "value", "curve"
OTHERWISE = "sampled with"  # the column of what sampled_by says


def progress(run: Run) -> str:
    """How far a run has come, and the command that began it, in Markdown."""
    steps = max((row["step"] for row in run.log() if isinstance(row.get("step"), int)), default=0)
    planned, command = (run.training.get(name) for name in ("num_iterations", "command"))
    of_all = f" of {planned:,}" if isinstance(planned, int) else ""
    return f"**{steps:,}{of_all} steps**" + (f", `{command}`" if command else "")


def curves(run: Run) -> dict[str, list[Point]]:
    """Title -> points of the curves of a run's log: its losses, and its scores on a development split; only what there is."""
    rows = run.log()
    panels = {
        "training loss": _points(rows, lambda name: name.startswith("loss")),
        "score on the development split": _points(rows, lambda name: "_nfe" in name),
    }
    return {title: points for title, points in panels.items() if points}


def _points(rows: list[dict[str, Any]], counts: Callable[[str], bool]) -> list[Point]:
    found = []
    for row in rows:
        average = f", EMA {row['ema_half_life']}" if "ema_half_life" in row else ""
        found += [
            {SEEN: row["images_seen"], VALUE: value, CURVE: name + average}
            for name, value in row.items()
            if counts(name) and isinstance(value, float) and "images_seen" in row
        ]
    return found


# ------------------------------------------------------------------------------------------------------ what was measured


def measured(run: Run) -> list[Row]:
    """The lines of what was measured of samples of a known NFE, the last one last."""
    return [row for row in run.metrics() if isinstance(row.get("nfe"), int)]


def sampled_by(row: Row) -> str:
    """What of sampling was not as usual, in words: guidance, options, classes; empty where all was."""
    scale, classes = row.get("guidance_scale"), row.get("classes") or ["all"]
    low, high = row.get("guidance_interval") or (0.0, None)
    parts = [
        f"guidance scale {scale:g}" if scale else "",
        f"at noise levels {low:g} to {'any' if high is None else f'{high:g}'}" if scale and (low, high) != (0.0, None) else "",
        "away from a weaker model" if row.get("autoguidance") else "",
        " ".join(f"{name}={value}" for name, value in (row.get("options") or {}).items()),
        f"classes {' '.join(map(str, classes))}" if list(classes) != ["all"] else "",
    ]
    return ", ".join(filter(None, parts))


def number(value: float) -> str:
    """A score as it is shown: two decimals, and of small ones three digits."""
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"


def against(row: Row) -> str:
    """How many samples were measured against which reference."""
    counts = [f"{int(word):,}" if str(word).isdecimal() else str(word) for word in map(row.get, ("num_generated", "reference"))]
    return " vs ".join(counts)


def last_scores(run: Run, titles: Mapping[str, str]) -> dict[str, float]:
    """NFE -> the last score of the metric that ranks, of samples that were made as usual: {"NFE 4": 5.2}, in order of NFE."""
    ranks = next(iter(titles))
    found = {row["nfe"]: row[ranks] for row in measured(run) if isinstance(row.get(ranks), float) and not sampled_by(row)}
    return {f"NFE {nfe}": found[nfe] for nfe in sorted(found)}


def scores(run: Run, titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """What measure_fid.py found of a run's samples, a line for each score: in order of NFE, the last one first.

    titles: a score's name in the run's file -> what it is called.
    """
    rows = measured(run)[::-1]
    table = [
        {
            "NFE": row["nfe"],
            "score": number(row[name]),
            "of": title,
            "samples vs reference": against(row),
            "steps": row.get("step"),
            OTHERWISE: sampled_by(row),
        }
        for row in sorted(rows, key=lambda row: row["nfe"])
        for name, title in titles.items()
        if isinstance(row.get(name), float)
    ]
    empty = {OTHERWISE} if not any(line[OTHERWISE] for line in table) else set()
    return [{name: value for name, value in line.items() if name not in empty} for line in table]


def known_scores(loaded: Loaded, nfe: int, request: Request) -> dict[str, tuple[str, str]]:
    """What was measured of samples that this checkpoint makes as it is asked to: title -> the score, and samples vs reference.

    The metric that ranks is first. Of several measurements of one score it is that of the most samples, the last one of these.
    Of some classes alone nothing is known.
    """
    if request.classes is not None:
        return {}
    how, found = sampled_by({"guidance_scale": request.scale}), {}
    rows = [row for row in measured(loaded.run) if (row["nfe"], row.get("step"), sampled_by(row)) == (nfe, loaded.step, how)]
    for row in sorted(rows, key=lambda row: row.get("num_generated") or 0):
        found |= {
            title: (number(row[name]), against(row))
            for name, title in loaded.challenge.metrics.items()
            if isinstance(row.get(name), float)
        }
    return {title: found[title] for title in loaded.challenge.metrics.values() if title in found}
