"""training_curves.png of a run: its log, and what was measured of it, over the images seen."""

import re
from typing import Any

from src.common.figures import Figure, matplotlib
from src.common.files import write_whole
from src.runs.folder import CURVES, Run
from src.runs.scores import Score, measured_scores

PANELS = {  # title -> what the keys of its curves have in common
    "training loss": re.compile("loss"),
    "gradient norm before clipping": re.compile("grad_norm"),
    "FID on the development split": re.compile("fid_nfe"),
    "score on the development split": re.compile("(?!fid).*_nfe"),
}
MEASURED = "measured by measure_fid.py"


class PlainNumbers(matplotlib.ticker.LogFormatter):
    """Labels of a logarithmic axis: 0.3 and 120, where others write 3 x 10^-1 and 1.2 x 10^2."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def draw_curves(run: Run) -> None:
    """Draw losses, gradient norms, development scores and what metrics.jsonl has, where there are any."""
    rows = run.log()
    names = sorted({key for row in rows for key in row} - {"loss_by_time"})
    keys = {title: [name for name in names if pattern.match(name)] for title, pattern in PANELS.items()}
    panels = {title: _logged(rows, names) for title, names in keys.items() if names}
    if measured := _measured(measured_scores(run)):
        panels[MEASURED] = measured
    if not panels:
        return
    # margins in inches: to let matplotlib lay them out takes as long as all else, and a run draws its curves often
    figure = Figure(figsize=((width := 5 * len(panels)), 4))
    axes = figure.subplots(1, len(panels), squeeze=False)
    figure.subplots_adjust(left=0.7 / width, right=1 - 0.25 / width, bottom=0.5 / 4, top=1 - 0.3 / 4, wspace=0.19)
    for axis, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for label, points in curves.items():
            seen, values = zip(*sorted(points), strict=True)
            axis.plot(seen, values, label=label, marker="." if len(points) < 20 else None)
        axis.set(title=title, xlabel="images seen", yscale="log")
        axis.yaxis.set_major_formatter(PlainNumbers())
        axis.yaxis.set_minor_formatter(PlainNumbers())
        axis.grid(alpha=0.3)
        if len(axis.lines) > 1 or title == MEASURED:
            axis.legend(fontsize="small")
    with write_whole(run.folder / CURVES) as partial:
        figure.savefig(partial, format="png", dpi=120, pil_kwargs={"compress_level": 1})


Curves = dict[str, list[tuple[float, float]]]  # label -> points: images seen, value


def _logged(rows: list[dict[str, Any]], names: list[str]) -> Curves:
    """The curves of these keys of the log, one for each half-life."""
    curves: Curves = {}
    for name in names:
        for row in rows:
            if name in row:
                half_life = row.get("ema_half_life")
                label = name if half_life is None else f"{name}, EMA {half_life}"
                curves.setdefault(label, []).append((row["images_seen"], row[name]))
    return curves


def _measured(scores: list[Score]) -> Curves:
    """The curves of what was measured: of each metric, NFE and way of sampling; of an image count the last score."""
    curves: dict[str, dict[float, float]] = {}
    for score in scores:
        if score.images_seen:
            label = ", ".join(filter(None, (score.metric, f"NFE {score.nfe}", score.how)))
            curves.setdefault(label, {})[score.images_seen] = score.value
    return {label: list(points.items()) for label, points in curves.items()}
