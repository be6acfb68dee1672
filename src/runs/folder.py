"""A run's folder: the names of its files, and how it and its samples are found.

    model_config.json      options that build the model     last.ckpt            averaged weights, what is sampled
    training_config.json   how it was trained               resume.pt            what a continued run begins with
    log.jsonl              losses, speed, scores            resume_previous.pt   the one before it
    training_curves.png    log and scores drawn             previews/            sheets of samples, step_0000512.png ...
    metrics.jsonl          what was measured of its samples, a line each: scores.py

Samples lie in a folder for each number of network calls (NFE), nfe=1, nfe=2, nfe=4, by default in ./samples. Beside them
sampling.json says of each folder what made it. Runs and samples may be moved: what one file says of another is a path from
its own folder and the run's identity, run_id of training_config.json.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from src.common.checkpoints import MODEL_CONFIG, read_model_config
from src.common.cli import UserError
from src.common.files import file_sha256, load_json, load_json_lines, save_json
from src.common.locks import owner_of

LAST = "last.ckpt"
BEST = "best_model.pt"  # instead of LAST in a folder of checkpoints/
TRAINING_CONFIG = "training_config.json"
LOG = "log.jsonl"
METRICS = "metrics.jsonl"
SAMPLING = "sampling.json"
CURVES = "training_curves.png"
RESUME, RESUME_PREVIOUS = "resume.pt", "resume_previous.pt"
PREVIEWS, PREVIEW = "previews", "step_{step:07d}.png"
SAMPLES, SCORES = "samples", "fid"
NOT_SAVED = "not saved yet"
DEFAULT_CHALLENGE = "simpsons"  # of a folder that names none
ORIGINS = ("teacher", "init_from")  # flags of train.py that name another run
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
        return {OLD_NAMES.get(name, name): value for name, value in self._settings(TRAINING_CONFIG).items()}

    @property
    def run_id(self) -> str | None:
        """What tells it from every other run, wherever it lies; None of a run of an earlier release, or of no readable run."""
        try:
            return self.training.get("run_id")
        except UserError:
            return None

    def check_saved(self) -> None:
        """Raise UserError, saying what to do, where train.py has begun it and saved nothing yet."""
        if not self.exists or (self.folder / MODEL_CONFIG).is_file():
            return
        if owner_of(self.folder):
            how = f"a run saves every {self.training.get('save_interval')} steps, and when Ctrl-C ends it; wait, or end it"
        else:
            how = "it ended before that; give the train.py command again that began it"
        raise UserError(f"{self.folder} has {NOT_SAVED}: {how}")

    def origin(self, key: str) -> Path | None:
        """The checkpoint that a flag of ORIGINS named when it was trained, wherever it lies now; None where there is none.

        Where no run of its identity is found, it is the path as it was given.
        """
        reference = self.training.get("origins", {}).get(key)
        given = self.training.get(key)
        return (reference and find_checkpoint(reference, self.folder)) or (checkpoint_of(given) if given else None)

    @cached_property
    def model(self) -> dict[str, Any]:
        """model_config.json. Raises UserError where it is absent or malformed."""
        return self._settings(MODEL_CONFIG)

    def _settings(self, name: str) -> dict[str, Any]:
        settings = load_json(self.folder / name)
        if not isinstance(settings, dict):
            raise UserError(f"{self.folder / name}: expected a JSON object of settings, got {type(settings).__name__}")
        return settings

    @property
    def challenge(self) -> str | None:
        """The name of the challenge that it was trained for; None where the folder does not say it."""
        training = self.training if self.exists else {}
        return training.get("challenge") or self.model.get("challenge")

    @property
    def sample_shape(self) -> tuple[int, ...] | None:
        """The shape of one training sample; None where the folder does not say it."""
        config = read_model_config(self.folder / LAST) or {}
        shape = self.training.get("image_shape") if self.exists else config.get("sample_shape")
        return None if shape is None else tuple(shape)

    def log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl; of an absent log none."""
        return load_json_lines(self.folder / LOG)

    def made(self, folder: Path, unknown: bool = False) -> bool:
        """Whether sampling.json says that samples are of this run; unknown: what counts where it does not say it."""
        sampled = sampled_from(folder)
        if not sampled:
            return unknown
        checkpoint = find_checkpoint(sampled, folder.parent)
        return checkpoint is not None and checkpoint.parent.resolve() == self.folder.resolve()

    def seconds(self) -> float | None:
        """How long it trained, in seconds; None where the log does not say."""
        return trained_seconds(self.log())

    def previews(self) -> dict[int, Path]:
        """Step -> sheet of samples, in order."""
        return numbered(self.folder / PREVIEWS, "step_", ".png")


def runs_in(folder: Path) -> list[Run]:
    """The runs of a folder and of the folders in it, at any depth, in the order of their names."""
    return [Run(file.parent) for file in sorted(folder.rglob(TRAINING_CONFIG))]


def checkpoint_of(source: str | Path) -> Path:
    """The checkpoint that a run's folder, a folder of checkpoints/ or a checkpoint itself stands for; it may be absent."""
    source = Path(source)
    if not source.is_dir():
        return source
    return source / (BEST if (source / BEST).is_file() and not (source / LAST).is_file() else LAST)


def saved_checkpoint(source: str | Path) -> Path:
    """checkpoint_of, where it is there. Raises UserError, saying what to do, where it is not (yet)."""
    file = checkpoint_of(source)
    if not file.is_file():
        Run.of(source).check_saved()
        raise UserError(f"no checkpoint at {file}")
    return file


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
    """Say in sampling.json beside a folder of samples what made them: checkpoint, step, nfe and what else there is.

    checkpoint is the path of the file; what is written is the way to it from here.
    """
    file = folder.parent / SAMPLING
    entries = load_json(file) if file.is_file() else {}
    entry = {**entry, "checkpoint": relative_path(entry["checkpoint"], folder.parent)}
    save_json({**(entries if isinstance(entries, dict) else {}), folder.name: entry}, file)


def sampled_from(folder: str | Path, count: int | None = None) -> dict[str, Any]:
    """What sampling.json says of a folder of samples; empty where it is absent or malformed, or says it of another folder.

    checkpoint is the path as it was when they were made; find_checkpoint knows where the file is now. count: how many samples
    the folder holds; where it was another number, it is another folder.
    """
    folder = Path(folder).resolve()
    file = folder.parent / SAMPLING
    entries = load_json(file) if file.is_file() else {}
    entry = entries.get(folder.name) if isinstance(entries, dict) else None
    if not (isinstance(entry, dict) and isinstance(entry.get("checkpoint"), str)):
        return {}
    if count not in (None, entry.get("num_samples")):
        return {}
    return {**entry, "checkpoint": os.path.normpath(folder.parent / entry["checkpoint"])}


# ------------------------------------------------------------------------------------------ what one file says of another


def relative_path(path: str | Path, base: str | Path) -> str:
    """The way from the folder base to path, with slashes; on another drive than base, where there is none, the whole path."""
    path, base = Path(path).resolve(), Path(base).resolve()
    same = path.drive == base.drive
    return (Path(os.path.relpath(path, base)) if same else path).as_posix()


def shown_path(path: str | Path) -> str:
    """A path as it is printed: from where the command is run, where it lies below that."""
    here, path = Path.cwd().resolve(), Path(path).resolve()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def identity_of(checkpoint: str | Path) -> dict[str, Any]:
    """What a checkpoint is known by when it has been moved: the identity of its run, and the SHA-256 of the file."""
    return {"run_id": Run.of(checkpoint).run_id, "checkpoint_sha256": file_sha256(checkpoint)}


def refer_to(checkpoint: str | Path, base: Path) -> dict[str, Any]:
    """What a file in the folder base says of a checkpoint, so that find_checkpoint finds it."""
    return {"checkpoint": relative_path(checkpoint, base), **identity_of(checkpoint)}


def find_checkpoint(reference: Mapping[str, Any], base: Path) -> Path | None:
    """The checkpoint that a file in the folder base refers to, by refer_to or note_sampling; None where it is not found.

    It is looked for where it was, around there, above base and below the working directory. The identity decides: of two runs
    that have it, of which one is a copy, the one with the same weights; where an earlier release noted none, the place does.
    """
    was = Path(os.path.normpath(base.resolve() / reference["checkpoint"]))
    run_id, digest = reference.get("run_id"), reference.get("checkpoint_sha256")
    if not (run_id or digest):
        return was if was.is_file() else None
    files = [file for folder in dict.fromkeys(_places(was, base.resolve())) if (file := folder / was.name).is_file()]
    if run_id:
        files = [file for file in files if Run.of(file).run_id == run_id]
    if digest and (len(files) > 1 or not run_id):
        same = [file for file in files if file_sha256(file) == digest]
        files = same if same or not run_id else files
    return files[0] if files else None


def _places(was: Path, base: Path) -> Iterator[Path]:
    """Folders in which a checkpoint may lie that once was at `was` and is meant by a file in base; the likeliest first."""
    yield was.parent
    yield from (folder for folder in (base, *base.parents) if (folder / TRAINING_CONFIG).is_file())
    near, here = was.parent.parent, Path.cwd().resolve()
    for folder, pattern in ((near, "*/"), (near.parent, "*/*/"), (here, "*/"), (here, "*/*/")):
        yield from (file.parent for file in sorted(folder.glob(f"{pattern}{TRAINING_CONFIG}")))
