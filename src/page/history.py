"""What a run has written of itself, as the page shows it: curves, and what measure_fid.py measured of its samples."""

from collections.abc import Callable, Mapping
from typing import Any

from src.page.samples import Request
from src.page.sources import Loaded
from src.runs.folder import Run
from src.runs.scores import Score, measured_scores

Point = dict[str, Any]  # of a curve: SEEN, VALUE, and the name of its CURVE
SEEN, VALUE, CURVE = "images seen", "value", "curve"
OTHERWISE = "sampled with"  # the column of Score.how


def progress(run: Run) -> str:
    """How far a run has come, and the command that began it, in Markdown."""
    steps = max((row["step"] for row in run.log() if isinstance(row.get("step"), int)), default=0)
    planned, command = (run.training.get(name) for name in ("num_iterations", "command"))
    of_all = f" of {planned:,}" if isinstance(planned, int) else ""
    return f"**{steps:,}{of_all} steps**" + (f", `{command}`" if command else "")


def curves(run: Run) -> dict[str, list[Point]]:
    """Title -> points of the curves of a run's log: its losses, and its scores on a development split; only what there is."""
    panels: dict[str, Callable[[str], bool]] = {
        "training loss": lambda name: name.startswith("loss"),
        "score on the development split": lambda name: "_nfe" in name,
    }
    found = {
        title: [
            {SEEN: row["images_seen"], VALUE: value, CURVE: name + (f", EMA {average}" if average is not None else "")}
            for row in run.log()
            for average in [row.get("ema_half_life")]
            for name, value in row.items()
            if belongs(name) and isinstance(value, float) and "images_seen" in row
        ]
        for title, belongs in panels.items()
    }
    return {title: points for title, points in found.items() if points}


def measured(run: Run) -> list[Score]:
    """What was measured of samples of a known NFE, the last one last."""
    return [score for score in measured_scores(run) if score.nfe is not None]


def number(value: float) -> str:
    """A score as it is shown: two decimals, and of small ones three digits."""
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"


def against(score: Score) -> str:
    """How many samples were measured against which reference."""
    counts = [f"{int(word):,}" if str(word).isdecimal() else str(word) for word in (score.num_images, score.reference)]
    return " vs ".join(counts)


def last_scores(run: Run, titles: Mapping[str, str]) -> dict[str, float]:
    """NFE -> the last score of the metric that ranks, of samples that were made as usual: {"NFE 4": 5.2}, in order of NFE."""
    ranks = next(iter(titles))
    found = {score.nfe: score.value for score in measured(run) if score.metric == ranks and not score.how}
    return {f"NFE {nfe}": found[nfe] for nfe in sorted(found)}


def scores(run: Run, titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """What measure_fid.py found of a run's samples, a line for each score: in order of NFE, the last one first.

    titles: a score's name in the run's file -> what it is called.
    """
    found = [score for score in measured(run)[::-1] if score.metric in titles]
    shows_how = any(score.how for score in found)
    return [
        {
            "NFE": score.nfe,
            "score": number(score.value),
            "of": titles[score.metric],
            "samples vs reference": against(score),
            "steps": score.step,
            **({OTHERWISE: score.how} if shows_how else {}),
        }
        for score in sorted(found, key=lambda score: score.nfe)
    ]


def scores_of_samples(loaded: Loaded, nfe: int, request: Request) -> dict[str, tuple[str, str]]:
    """What was measured of samples that this checkpoint makes at this request: title -> the score, and samples vs reference.

    The metric that ranks is first. Of several measurements of one score it is that of the most samples, the last one of these.
    Of some classes alone there is none.
    """
    if request.classes is not None:
        return {}
    how, titles = Score("", 0.0, guidance=request.scale).how, loaded.challenge.metrics
    found = {}
    for score in sorted(measured(loaded.run), key=lambda score: score.num_images or 0):
        if (score.nfe, score.step, score.how) == (nfe, loaded.step, how) and score.metric in titles:
            found[titles[score.metric]] = (number(score.value), against(score))
    return {title: found[title] for title in titles.values() if title in found}
