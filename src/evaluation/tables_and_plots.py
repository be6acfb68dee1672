"""What metrics say, for people: lines, a table of folders side by side, FID against NFE, nearest training images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.common.files import write_whole
from src.common.images import contact_sheet
from src.evaluation.confidence import NORMAL_95
from src.evaluation.neighbours import Neighbours
from src.runs.folder import nfe_of

Result = dict[str, Any]  # what metrics.json holds
SHEET_COLUMNS = 10
TITLES = {
    "fid": "FID",
    "fid_infinity": "FID infinity",
    "kid": "KID x 1000",
    "inception_score": "Inception Score",
    "frechet": "Frechet distance",
    "score": "CLIP score",
}
PRECISION = {"precision": 3, "recall": 3, "density": 3, "coverage": 3, "accuracy": 4}  # digits after the point; of all others 2
ACCURACIES = {"accuracy": "accuracy", "real_accuracy": "accuracy on real images"}
NEAREST = {
    "median": "median distance to the nearest training image",
    "closest": "closest",
    "gap": "gap validation - training",
    "from_train": "share nearest to a training image",
    "copied": "share of copies",
}


def cells(result: Result) -> dict[str, str]:
    """Every number of a result as words, by its name: "clean FID" -> "14.13 +- 1.12"; +- is half the 95% interval."""
    found = {}
    for features, metrics in result["metrics"].items():
        for name, entry in metrics.items():
            if "value" not in entry:
                continue
            found[f"{features} {TITLES.get(name, name)}"] = cell(name, entry)
    told = result.get("by_class", {})
    found |= {words: cell("accuracy", told[name]) for name, words in ACCURACIES.items() if name in told}
    for kind, entry in result.get("nearest_train", {}).items():
        for name, words in NEAREST.items():
            spread = entry.get(f"{name}_spread")
            by_chance = "" if spread is None else f" (without copying 0 +- {NORMAL_95 * spread:.2g})"
            found[f"{kind}: {words}"] = f"{entry[name]:.3g}{by_chance}"
    return found


def cell(name: str, entry: dict[str, Any]) -> str:
    """The number of this name as words."""
    scale, digits = (1000 if name == "kid" else 1), PRECISION.get(name, 2)
    text = f"{scale * entry['value']:.{digits}f}"
    error = entry.get("standard_error", entry.get("deviation"))
    if error is not None:
        text += f" +- {scale * error * (NORMAL_95 if 'standard_error' in entry else 1):.{digits}f}"
    return text


def lines(result: Result) -> list[str]:
    """The numbers of one folder, a line each."""
    found = cells(result)
    width = max(map(len, found))
    return [f"  {name:<{width}}  {text}" for name, text in found.items()]


def comparison(results: dict[str, Result]) -> str:
    """A Markdown table: a column for each named result, a row for each number; "-" where a result lacks it."""
    columns = {name: cells(result) for name, result in results.items()}
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    table = [
        "| | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
        "| images | " + " | ".join(f"{each['num_generated']} vs {each['num_reference']}" for each in results.values()) + " |",
    ]
    table += [f"| {row} | " + " | ".join(column.get(row, "-") for column in columns.values()) + " |" for row in rows]
    return "\n".join(table)


def class_table(result: Result) -> list[str]:
    """What metrics.json says by class: a Markdown table, a row for each class, "-" for none; then what is left out."""
    told, modes = result["by_class"], list(result["metrics"])
    titles = [f"{mode} {name}" for mode in modes for name in ("FID", "recall")]
    rows = [["class", "images", *ACCURACIES.values(), *titles]]
    for name, entry in told["classes"].items():
        row = [name, str(entry["num_generated"])]
        row += [cell("accuracy", entry[key]) if key in entry else "-" for key in ACCURACIES]
        for mode in modes:
            row += [cell(key, entry[mode][key]) if mode in entry else "-" for key in ("fid", "recall")]
        rows.append(row)
    table = [f"| {' | '.join(row)} |" for row in rows]
    why: dict[str, list[str]] = {}
    for name, reason in told["left_out"].items():
        why.setdefault(reason, []).append(name)
    notes = [f"no FID and recall of {', '.join(names)}: {reason}" for reason, names in why.items()]
    if told["no_class"]:
        notes.append(f"{told['no_class']} images were asked for no class, and are left out here")
    return [table[0], "|---" * len(rows[0]) + "|", *table[1:], *notes]


def short_names(folders: Sequence[Path]) -> list[str]:
    """The folders below the one that holds them all, with "_" for "/"; one name for each."""
    paths = [folder.resolve() for folder in folders]
    common = os.path.commonpath([path.parent for path in paths])
    return ["_".join(path.relative_to(common).parts) for path in paths]


def plot_fid(results: dict[Path, Result], file: Path) -> None:
    """FID of the first mode with its 95% interval against NFE, a line for each folder of folders nfe=K."""
    from src.common.figures import Figure

    series: dict[Path, list[tuple[int, float, float]]] = {}
    for folder, result in results.items():
        nfe, (mode, metrics) = nfe_of(folder.resolve()), next(iter(result["metrics"].items()))
        if nfe is not None:
            error = NORMAL_95 * metrics["fid"].get("standard_error", 0)
            series.setdefault(folder.resolve().parent, []).append((nfe, metrics["fid"]["value"], error))
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, points in zip(short_names(list(series)), series.values(), strict=True):
        x, y, error = zip(*sorted(points), strict=True)
        axes.errorbar(x, y, error, marker="o", capsize=3, label=name)
    ticks = sorted({nfe for points in series.values() for nfe, _, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(nfe) for nfe in ticks])
    axes.minorticks_off()
    counts = sorted({(result["num_generated"], result["num_reference"]) for result in results.values()})
    axes.set(xlabel="NFE", ylabel=f"FID {mode}-fid, " + ", ".join(f"{n} vs {m}" for n, m in counts))
    axes.set_ylim(bottom=0)
    axes.legend()
    with write_whole(file) as partial:
        figure.savefig(partial, format="png", dpi=150)


def plot_neighbours(images: np.ndarray, train: np.ndarray, found: dict[str, Neighbours], file: Path) -> None:
    """The samples that lie closest to a training image, that image under each, closest first; a pair of rows for each kind.

    images, train: uint8 (N, 3, H, W) and (T, 3, H, W); where their sizes differ, training images are cut or filled up in black.
    """
    rows, labels = [], []
    for kind, each in found.items():
        closest = np.argsort(each.distance)[:SHEET_COLUMNS]
        copies = np.zeros_like(images[closest])
        height, width = (min(sizes) for sizes in zip(images.shape[2:], train.shape[2:], strict=True))
        copies[:, :, :height, :width] = train[each.index[closest]][:, :, :height, :width]
        rows += [images[closest], copies]
        labels += ["samples", f"nearest in {kind}"]
    with write_whole(file) as partial:
        contact_sheet(rows, labels).save(partial, format="png")
