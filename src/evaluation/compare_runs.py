"""Runs side by side: a table of their FID and a sheet of their images.

    python -m src.evaluation.compare_runs results/demo/untrained results/demo/trained

Reads RUN/samples/nfe=K/*.png and RUN/fid/nfe=K.json (the --output_path of measure_fid.py) of each run, prints the table, and
leaves summary.md and contact_sheet.png in the last run; the sheet is of its images: a row per NFE, the same noise in a column.
"""

from pathlib import Path

import numpy as np

from src.common.cli import Parser, UserError, number, run_script
from src.common.files import load_json, write_whole
from src.common.images import contact_sheet
from src.evaluation.features import read_images
from src.runs import CURVES, SAMPLES, SCORES, nfe_folders, nfe_name


def sampled(run: Path) -> dict[int, Path]:
    """NFE -> folder of a run's samples. Raises UserError where there are none."""
    if found := nfe_folders(run / SAMPLES):
        return found
    raise UserError(f"{run}: no folders {SAMPLES}/nfe=K; write them with sampling.py --save_dir {run / SAMPLES}")


def fid_table(runs: list[Path]) -> str:
    """A Markdown table: a row for each run, a column for each NFE; "-" where a run was not measured at an NFE."""
    scores = {run: {nfe: load_json(run / SCORES / f"{nfe_name(nfe)}.json") for nfe in sampled(run)} for run in runs}
    columns = sorted({nfe for row in scores.values() for nfe in row})
    sizes = {(result["num_generated"], result["num_reference"]) for row in scores.values() for result in row.values()}
    if len(sizes) > 1:
        raise UserError(f"FID of different numbers of images cannot stand in one table: {sorted(sizes)}")
    ((generated, reference),) = sizes
    lines = [
        f"| FID clean-fid, {generated} vs {reference} | " + " | ".join(f"NFE {nfe}" for nfe in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for run, row in scores.items():
        cells = [f"{row[nfe]['fid_score']:.1f}" if nfe in row else "-" for nfe in columns]
        lines.append(f"| {run.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs; the sheet is of the last")
    parser.add_argument("--columns", type=number(int, 1), default=10, help="images per row of the sheet")
    args = parser.parse_args()
    table = fid_table(args.runs)
    last = args.runs[-1]
    folders = sampled(last)
    rows = [read_images(folder)[: args.columns] for folder in folders.values()]
    if len({np.shape(row) for row in rows}) > 1:
        raise UserError(f"{last / SAMPLES}: the folders hold different numbers or sizes of images")
    with write_whole(last / "summary.md") as partial:
        partial.write_text(table)
    with write_whole(last / "contact_sheet.png") as partial:
        contact_sheet(rows, [f"NFE {nfe}" for nfe in folders]).save(partial, format="png")
    print(f"\n{table}\ncontact sheet: {last / 'contact_sheet.png'}\nloss curve:    {last / CURVES}")


if __name__ == "__main__":
    run_script(main)
