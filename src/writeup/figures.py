"""The figures and the table of a write-up, each as wide as a column. One that cannot be drawn says why."""

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from src.common.figures import Figure, matplotlib
from src.runs.folder import LOG
from src.writeup.check import need
from src.writeup.run import Writeup, cut_sheet, early_previews, first_samples
from src.writeup.typeset import COLUMN, SMALL, Drawing, markup, styles

ROW_TITLE = 32.0  # points, the column of the titles of rows


def drawings(run: Writeup) -> tuple[dict[str, Drawing], list[str]]:
    """Name -> what draws it (a list of flowables, empty where the run has nothing to show); what is missing, a line each."""
    problems = []
    if not any(name.startswith("loss") for name in run.curves()):
        problems.append(f"loss curves: {run.folder / LOG} has no losses")
    if not early_previews(run):
        problems.append(
            f"samples from early training: no preview before step {run.steps}; give train.py a --save_interval below"
        )
    for nfe in run.nfe:
        if nfe not in run.fid:
            problems.append(f"results: no FID at NFE {nfe}; measure it with measure_fid.py (--metrics)")
        elif (step := run.fid[nfe].get("step")) not in (None, run.steps):
            problems.append(f"results: the FID at NFE {nfe} is of step {step} of {run.steps}; sample and measure again")
    missing = (nfe for nfe in run.nfe if nfe not in run.samples)
    problems += [f"samples at NFE {nfe}: none; make them with sampling.py (--samples)" for nfe in missing]
    return {draw.__name__: partial(draw, run) for draw in (curves, early, results, samples)}, problems


def curves(run: Writeup) -> list[Any]:
    """Losses, and FID on the development split where it was measured, against the images seen."""
    found = run.curves()
    panels = [[name for name in found if name.startswith(start)] for start in ("loss", "fid_")]
    panels = [names for names in panels if names]
    if not panels:
        return []
    width, height = COLUMN / 72, 0.4 + 1.35 * len(panels)  # inches: letters keep their size on paper
    settings = {"font.family": "STIXGeneral", "font.size": SMALL, "axes.linewidth": 0.6}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)
        for axis, names in zip(axes[:, 0], panels, strict=True):
            for name in names:
                points = np.array(found[name], dtype=float)
                label = f"NFE {name.removeprefix('fid_nfe')}" if name.startswith("fid_nfe") else name.replace("_", " ")
                axis.plot(points[:, 0], points[:, 1], linewidth=0.9, marker="." if len(points) < 20 else None, label=label)
            values = np.concatenate([np.array(found[name], dtype=float)[:, 1] for name in names])
            axis.set_yscale("log" if values.min() > 0 and values.max() > 3 * values.min() else "linear")
            for of_kind in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter) * (axis.get_yscale() == "log"):
                of_kind(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else "")
            axis.set_ylabel("loss" if names[0].startswith("loss") else "FID, dev. split")
            axis.grid(alpha=0.3, linewidth=0.4)
            if len(names) > 1:
                where = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.98), "ncols": len(names)}
                axis.legend(fontsize=SMALL, frameon=False, handlelength=1, columnspacing=1, borderpad=0.2, **where)
        axes[-1, 0].set_xlabel("images seen")
        axes[-1, 0].xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        return [image(partial(figure.savefig, dpi=300), COLUMN, 72 * height)]


def image(save: Callable[..., None], width: float, height: float) -> Any:
    """A flowable of this size in points, of what save writes as a PNG file."""
    file = io.BytesIO()
    save(file, format="png")
    file.seek(0)
    return need("reportlab.platypus").Image(file, width=width, height=height)


def grid(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], header: Sequence[str] = (), span: int = 1) -> Any:
    """Rows of images, uint8 (H, W, 3), with titles on the left and, over every span of columns, a header."""
    platypus, style = need("reportlab.platypus"), styles()
    side, gap = (COLUMN - ROW_TITLE) / len(rows[0]), 2.0 if header else 0.0
    cells = [
        [
            platypus.Paragraph(title, style["row"]),
            *(image(Image.fromarray(pixels).save, side - gap, side - gap) for pixels in row),
        ]
        for title, row in zip(titles, rows, strict=True)
    ]
    commands = [
        *[(f"{edge}PADDING", (0, 0), (-1, -1), 0) for edge in ("LEFT", "RIGHT", "TOP", "BOTTOM")],
        ("FONTNAME", (0, 0), (-1, -1), "Text"),
        ("RIGHTPADDING", (0, 0), (0, -1), 4),
        ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
        ("ALIGN", (1, 0), (-1, -1), "CENTER"),
    ]
    if header:
        first = [platypus.Paragraph("step", style["row"])]
        for number, text in enumerate(header):
            first += [platypus.Paragraph(text, style["cell"]), *[""] * (span - 1)]
            commands.append(("SPAN", (1 + number * span, 0), ((number + 1) * span, 0)))
        cells.insert(0, first)
        commands.append(("BOTTOMPADDING", (0, 0), (-1, 0), 2))
    heights = [None] * bool(header) + [side] * len(rows)
    return platypus.Table(cells, colWidths=[ROW_TITLE] + [side] * len(rows[0]), rowHeights=heights, style=commands)


def short(steps: int) -> str:
    """512, 2.0k, 10k."""
    return str(steps) if steps < 1000 else f"{steps / 1000:.1f}k" if steps < 10000 else f"{steps / 1000:.0f}k"


def early(run: Writeup) -> list[Any]:
    """A column or more for each early preview, a row per NFE; as many samples of each preview as make about eight columns."""
    chosen = early_previews(run)
    if not chosen:
        return []
    _, height, width = run.training.get("image_shape", run.challenge.shape)
    sheets = [cut_sheet(path, height, width) for path in chosen.values()]
    span = max(1, min(8 // len(sheets), *(sheet.shape[1] for sheet in sheets)))
    count = min(sheet.shape[0] for sheet in sheets)
    rows = [[image for sheet in sheets for image in sheet[row, :span]] for row in range(count)]
    return [grid(rows, [f"NFE {nfe}" for nfe in run.nfe[:count]], list(map(short, chosen)), span)]


def samples(run: Writeup, columns: int = 8) -> list[Any]:
    """Two rows of samples for each NFE, of the same noise in the same place; of fewer than a row, white places after them."""
    rows, titles = [], []
    for nfe in (nfe for nfe in run.nfe if nfe in run.samples):
        images = list(first_samples(run.samples[nfe], 2 * columns))
        images += [np.full_like(images[0], 255)] * (columns - len(images))
        for start in range(0, len(images) - columns + 1, columns):
            rows.append(images[start : start + columns])
            titles.append("" if start else f"NFE {nfe}")
    return [grid(rows, titles)] if rows else []


def results(run: Writeup) -> list[Any]:
    """A table: a column for each NFE; a row for the metric that ranks, and for others and KID if measured at each NFE."""
    if not run.fid:
        return []
    platypus, style = need("reportlab.platypus"), styles()
    (_, ranks), *others = run.challenge.metrics.items()
    figures = [("fid_score", ranks, 1), *((name, title, 1) for name, title in others), ("kid", "KID x 1,000", 1000)]
    nfes = sorted({*run.nfe, *run.fid})
    rows = [["", *(f"<b>NFE {nfe}</b>" for nfe in nfes)]]
    for name, title, scale in figures:
        if all(name in scores for scores in run.fid.values()):
            values = [f"{scale * run.fid[nfe][name]:.2f}" if nfe in run.fid else "-" for nfe in nfes]
            rows.append([markup(title), *values])
    cells = [[text and platypus.Paragraph(text, style["cell"]) for text in row] for row in rows]
    first = 90.0
    widths = [first] + [(COLUMN - first) / len(nfes)] * len(nfes)
    commands = [
        ("FONTNAME", (0, 0), (-1, -1), "Text"),
        ("LINEABOVE", (0, 0), (-1, 0), 0.8, "black"),
        ("LINEBELOW", (0, 0), (-1, 0), 0.4, "black"),
        ("LINEBELOW", (0, -1), (-1, -1), 0.8, "black"),
        ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
        ("TOPPADDING", (0, 0), (-1, -1), 2),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
    ]
    return [platypus.Table(cells, colWidths=widths, style=commands)]
