"""A run's folder: the names of its files, and what is read from them.

    model_config.json      options that build the model     last.ckpt            averaged weights, what is sampled
    training_config.json   how it was trained               resume.pt            what a continued run begins with
    log.jsonl              losses, speed, scores            resume_previous.pt   the one before it
    training_curves.png    log and metrics drawn            previews/            sheets of samples, step_0000512.png ...
    metrics.jsonl          what measure_fid.py measured of its samples, a line each

`python -m src.runs results/` lists the runs of a folder: what they train, how far they are, their FIDs.

Samples lie in a folder for each number of network calls (NFE): nfe=1, nfe=2, nfe=4; by default in the run's samples/. Beside
them sampling.json says of each folder what made it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from src.common.checkpoints import MODEL_CONFIG, read_model_config
from src.common.cli import Parser, UserError, run_script
from src.common.files import append_json_line, load_json, load_json_lines, save_json

LAST = "last.ckpt"
BEST = "best_model.pt"  # in the place of LAST where a run has become a folder of checkpoints/
TRAINING_CONFIG = "training_config.json"
LOG = "log.jsonl"
METRICS = "metrics.jsonl"
SAMPLING = "sampling.json"
CURVES = "training_curves.png"
RESUME, RESUME_PREVIOUS = "resume.pt", "resume_previous.pt"
PREVIEWS, PREVIEW = "previews", "step_{step:07d}.png"
SAMPLES, SCORES = "samples", "fid"
OLD_NAMES = {"data": "challenge"}  # keys of training_config.json as earlier releases wrote them -> as they are called now


@dataclass(frozen=True)
class Run:
    """The folder that train.py leaves."""

    folder: Path

    @classmethod
    def of(cls, source: str | Path) -> "Run":
        """The run of this folder, or the one that a checkpoint lies in."""
        source = Path(source)
        is_file = source.is_file() or source.suffix in (".ckpt", ".pt")
        return cls(source.parent if is_file else source)

    @property
    def exists(self) -> bool:
        return (self.folder / TRAINING_CONFIG).is_file()

    @property
    def can_resume(self) -> bool:
        return (self.folder / RESUME).is_file() or (self.folder / RESUME_PREVIOUS).is_file()

    @cached_property
    def training(self) -> dict[str, Any]:
        """training_config.json under the names of this release. Raises UserError where it is absent or malformed."""
        told = load_json(self.folder / TRAINING_CONFIG)
        return {OLD_NAMES.get(name, name): value for name, value in told.items()}

    @cached_property
    def model(self) -> dict[str, Any]:
        """model_config.json. Raises UserError where it is absent or malformed."""
        return load_json(self.folder / MODEL_CONFIG)

    @property
    def challenge(self) -> str | None:
        """The name of the challenge that it was trained for; None where the folder does not say it."""
        told = self.training if self.exists else {}
        return told.get("challenge") or self.model.get("challenge")

    @property
    def sample_shape(self) -> tuple[int, ...] | None:
        """The shape of one training sample; None where the folder does not say it."""
        told = read_model_config(self.folder / LAST) or {}
        shape = self.training.get("image_shape") if self.exists else told.get("sample_shape")
        return None if shape is None else tuple(shape)

    def log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl; of an absent log none."""
        return load_json_lines(self.folder / LOG)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; of an absent file none."""
        return load_json_lines(self.folder / METRICS)

    def add_metrics(self, row: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl. Raises UserError where the disk refuses."""
        append_json_line(row, self.folder / METRICS)

    def seconds(self) -> float | None:
        """How long it trained, in seconds; None where the log does not say."""
        return trained_seconds(self.log())

    def scores(self, step: int | None = None) -> dict[float | str, dict[str, float]]:
        """The last scores of each weight average on the development split, or those of this step: {0.05: {"fid_nfe1": ...}}."""
        found: dict[float | str, dict[str, float]] = {}
        for row in self.log():
            if "ema_half_life" in row and step in (None, row["step"]):
                found[row["ema_half_life"]] = {key: value for key, value in row.items() if "_nfe" in key}
        return found

    def previews(self) -> dict[int, Path]:
        """Step -> sheet of samples, in order."""
        return numbered(self.folder / PREVIEWS, "step_", ".png")


def checkpoint_of(source: str | Path) -> Path:
    """The checkpoint that a run's folder, a folder of checkpoints/ or a checkpoint itself stands for; it may be absent."""
    source = Path(source)
    if not source.is_dir():
        return source
    return source / (BEST if (source / BEST).is_file() and not (source / LAST).is_file() else LAST)


def trained_seconds(rows: Iterable[dict[str, Any]]) -> float | None:
    """How long a run had trained at the last line of its log, in seconds; None where no line says it."""
    return next((row["seconds"] for row in reversed(list(rows)) if "seconds" in row), None)


def numbered(folder: Path, prefix: str, suffix: str = "") -> dict[int, Path]:
    """Number in the name -> path of what is called prefix, number, suffix in a folder, in order of the numbers."""
    found = {path.name.removeprefix(prefix).removesuffix(suffix): path for path in folder.glob(f"{prefix}*{suffix}")}
    return {int(number): found[number] for number in sorted(filter(str.isdecimal, found), key=int)}


# ------------------------------------------------------------------------------------------------------------ samples


def nfe_name(nfe: int) -> str:
    """The name of the folder, or of a file without its ending, of this number of network calls: nfe=4."""
    return f"nfe={nfe}"


def scale_name(scale: float) -> str:
    """The name of the folder of this guidance scale: scale=7.5."""
    return f"scale={scale:g}"


def nfe_of(name: str | Path) -> int | None:
    """K of a folder or file that is named nfe=K, else None."""
    stem = Path(name).name.removesuffix(".json")
    number = stem.removeprefix("nfe=")
    return int(number) if stem.startswith("nfe=") and number.isdecimal() else None


def nfe_folders(folder: Path) -> dict[int, Path]:
    """NFE -> folder of its samples, in order; none where there are none."""
    return {nfe: path for nfe, path in numbered(folder, "nfe=").items() if path.is_dir()}


def note_sampling(folder: Path, entry: dict[str, Any]) -> None:
    """Say in sampling.json beside a folder of samples what made them: checkpoint, step, nfe and what else there is."""
    file = folder.parent / SAMPLING
    told = load_json(file) if file.is_file() else {}
    save_json({**(told if isinstance(told, dict) else {}), folder.name: entry}, file)


def sampled_from(folder: str | Path, count: int) -> dict[str, Any]:
    """What sampling.json says of a folder that now holds `count` samples; empty where it is absent, or of another folder."""
    folder = Path(folder).resolve()
    file = folder.parent / SAMPLING
    told = load_json(file) if file.is_file() else {}
    entry = told.get(folder.name) if isinstance(told, dict) else None
    known = isinstance(entry, dict) and isinstance(entry.get("checkpoint"), str) and entry.get("num_samples") == count
    return entry if known else {}


# ---------------------------------------------------------------------------------------------------------- a list of runs

COLUMNS = ("run", "challenge", "method", "steps", "images", "trained", "FID by NFE")


def runs_in(folder: Path) -> list[Run]:
    """The runs of a folder and of the folders in it, at any depth, in the order of their names."""
    return [Run(file.parent) for file in sorted(folder.rglob(TRAINING_CONFIG))]


def last_scores(run: Run) -> dict[int, float]:
    """NFE -> the last score that measure_fid.py found, or the last ones on a development split: the metric that ranks."""
    found: dict[int, float] = {}
    for scores in run.scores().values():
        found = {int(name.rpartition("_nfe")[2]): value for name, value in scores.items()}
        break
    for row in run.metrics():
        score = next((value for name, value in row.items() if name.startswith("fid_")), None)
        if isinstance(row.get("nfe"), int) and score is not None:
            found[row["nfe"]] = score
    return dict(sorted(found.items()))


def describe_run(run: Run, root: Path) -> tuple[str, ...]:
    """A row of the list: what COLUMNS says."""
    steps, planned = max((row["step"] for row in run.log() if "step" in row), default=0), run.training["num_iterations"]
    seconds = run.seconds()
    return (
        str(run.folder.relative_to(root)) if run.folder != root else run.folder.name,
        run.challenge or "simpsons",
        run.model.get("method", "custom"),
        f"{steps:,}" if steps >= planned else f"{steps:,} of {planned:,}",
        f"{steps * run.training['batch_size']:,}",
        "-" if seconds is None else f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min",
        ", ".join(f"{nfe}: {score:.2f}" for nfe, score in last_scores(run).items()) or "-",
    )


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def main() -> None:
    parser = Parser(
        prog="python -m src.runs", description="the runs of a folder: what they train, how far they are, their FIDs"
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("results"), help="where to look, at any depth")
    root = parser.parse_args().folder
    runs = runs_in(root)
    if not runs:
        raise UserError(f"{root}: no runs there; train.py makes them, by default in results/")
    print(align([COLUMNS, *(describe_run(run, root) for run in runs)]))


if __name__ == "__main__":
    run_script(main)
