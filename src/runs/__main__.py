"""`python -m src.runs results/` lists the runs of a folder: what they train, how far they are, what was measured of them."""

from pathlib import Path

from src.common.checkpoints import MODEL_CONFIG
from src.common.cli import Parser, UserError, align, run_script
from src.runs.folder import DEFAULT_CHALLENGE, NOT_SAVED, TRAINING_CONFIG, Run, runs_in, trained_seconds
from src.runs.scores import named_scores

COLUMNS = ("run", "challenge", "method", "steps", "images", "trained", "scores by NFE")


def describe_run(run: Run, root: Path) -> tuple[str, ...]:
    """A row of the list: what COLUMNS says; of a run that cannot be read, why."""
    name = str(run.folder.relative_to(root)) if run.folder != root else run.folder.name
    try:
        return (name, *_cells(run))
    except (UserError, OSError) as error:
        return (name, f"cannot be read: {error}")


def _cells(run: Run) -> tuple[str, ...]:
    training = run.training
    if wrong := next((key for key in ("num_iterations", "batch_size") if not isinstance(training.get(key), int)), None):
        raise UserError(f"{run.folder / TRAINING_CONFIG}: expected a whole number as {wrong}, got {training.get(wrong)!r}")
    saved = (run.folder / MODEL_CONFIG).is_file()
    rows = [row for row in run.log() if isinstance(row.get("step"), int)]
    steps, planned, seconds = max((row["step"] for row in rows), default=0), training["num_iterations"], trained_seconds(rows)
    scores = "; ".join(
        f"{what} {', '.join(f'{nfe}: {score:.2f}' for nfe, score in found.items())}"
        for what, found in named_scores(run).items()
    )
    return (
        (run.challenge if saved else training.get("challenge")) or DEFAULT_CHALLENGE,
        run.model.get("method", "custom") if saved else "-",
        f"{steps:,}" if steps >= planned else f"{steps:,} of {planned:,}",
        f"{steps * training['batch_size']:,}",
        "-" if seconds is None else f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min",
        (scores or "-") if saved else NOT_SAVED,
    )


def main() -> None:
    parser = Parser(
        prog="python -m src.runs", description="the runs of a folder: what they train, how far they are, their scores"
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("results"), help="where to look, at any depth")
    root = parser.parse_args().folder
    runs = runs_in(root)
    if not runs:
        raise UserError(f"{root}: no runs there; train.py makes them, by default in results/")
    print(align([COLUMNS, *(describe_run(run, root) for run in runs)]))


if __name__ == "__main__":
    run_script(main)
