"""What was measured of a run's samples: the one writer and the one reader of its metrics.jsonl.

Each line is one number: metric, value, nfe, guidance, step, images_seen, average, num_images, reference, command, date, and
what sampling.json says of how the samples were made. Two older forms are read, too: a line of several metrics, and the scores
on a development split, which training keeps in log.jsonl. They stay there because a resumed run begins its log again at the
step that it resumes from, whereas what was measured of samples stays true.
"""

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from src.common.files import append_json_line, load_json_lines
from src.runs.folder import (
    DEFAULT_CHALLENGE,
    METRICS,
    SAMPLES,
    Run,
    find_checkpoint,
    nfe_folders,
    relative_path,
    sampled_from,
    shown_path,
)

DEVELOPMENT = "development split"  # the reference of scores that training measures
ALL_CLASSES = ["all"]
OLD_NAMES = {"num_generated": "num_images", "guidance_scale": "guidance"}  # keys of older lines -> as they are called now
OLD_NUMBERS = ("step", "images_seen", "nfe", "seed", "num_samples", "num_images", "num_reference", "guidance")  # are no scores


@dataclass(frozen=True)
class Score:
    """One number that was measured of samples of a run.

    metric: such as fid_clean. average: the half-life of the weight average that was sampled. guidance: its scale, 0 for none.
    num_images: how many samples were measured. reference: against what: how many images, the name of a file of statistics, or
    DEVELOPMENT. sampling: what else sampling.json says: checkpoint, seed, precision, options, classes ...
    """

    metric: str
    value: float
    nfe: int | None = None
    guidance: float = 0.0
    step: int | None = None
    images_seen: int | None = None
    average: float | str | None = None
    num_images: int | None = None
    reference: str | None = None
    command: str | None = None
    date: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def how(self) -> str:
        """What of sampling was not as usual, in words: guidance, options, classes; empty where all was."""
        get = self.sampling.get
        low, high = get("guidance_interval") or (0.0, None)
        parts = [
            f"guidance scale {self.guidance:g}" if self.guidance else "",
            f"at noise levels {low:g} to {'any' if high is None else f'{high:g}'}"
            if self.guidance and (low, high) != (0.0, None)
            else "",
            "away from a weaker model" if get("autoguidance") else "",
            " ".join(f"{name}={value}" for name, value in (get("options") or {}).items()),
            "" if self.of_all_classes else f"classes {' '.join(map(str, self.sampling['classes']))}",
        ]
        return ", ".join(filter(None, parts))

    @property
    def of_all_classes(self) -> bool:
        return list(self.sampling.get("classes") or ALL_CLASSES) == ALL_CLASSES

    @property
    def is_plain(self) -> bool:
        """Whether the samples are of all classes and made with the model's own options; guidance may be there."""
        return self.of_all_classes and not self.sampling.get("options")

    def compares_with(self, other: "Score") -> bool:
        """Whether both are of the same step, number of images and reference."""
        mine, theirs = ((score.step, score.num_images, score.reference) for score in (self, other))
        return mine == theirs


FIELDS = {item.name for item in fields(Score)} - {"metric", "value", "sampling"}


def add_scores(run: Run, values: Mapping[str, float], samples: Path | None = None, **details: Any) -> None:
    """Append a line to metrics.jsonl for each metric, the one that ranks first.

    samples: the folder that was measured. details: fields of Score, and what else is said of the sampling.
    Raises UserError where the disk refuses.
    """
    place = {} if samples is None else {"samples": relative_path(samples, run.folder)}
    details = {"command": shlex.join(sys.argv), "date": datetime.now().isoformat(timespec="seconds"), **details, **place}
    write_scores(run, [_score(metric, value, details) for metric, value in values.items()])


def write_scores(run: Run, scores: list[Score]) -> None:
    """Append scores as they are. Raises UserError where the disk refuses."""
    for score in scores:
        row = asdict(score)
        sampling = row.pop("sampling")
        append_json_line({**row, **sampling}, run.folder / METRICS)


def _score(metric: str, value: float, details: Mapping[str, Any]) -> Score:
    named = {name: value for name, value in details.items() if name in FIELDS and value is not None}
    rest = {name: value for name, value in details.items() if name not in FIELDS}
    return Score(metric, value, **named, sampling=rest)


def measured_scores(run: Run) -> list[Score]:
    """What metrics.jsonl has, the last measured last; nothing where there is no such file."""
    found = []
    for row in load_json_lines(run.folder / METRICS):
        row = {OLD_NAMES.get(name, name): value for name, value in row.items()}
        if "metric" in row:
            value = row.pop("value", None)
            found += [_score(row.pop("metric"), float(value), row)] if isinstance(value, (int, float)) else []
            continue
        values = {name: value for name, value in row.items() if isinstance(value, float) and name not in OLD_NUMBERS}
        details = {name: value for name, value in row.items() if name not in values}
        found += [_score(metric, value, details) for metric, value in values.items()]
    return found


def development_scores(run: Run) -> list[Score]:
    """What training has measured on its development split, the last measured last."""
    found = []
    for row in run.log():
        details = {"step": row.get("step"), "images_seen": row.get("images_seen"), "average": row.get("ema_half_life")}
        for name, value in row.items():
            metric, separator, nfe = name.rpartition("_nfe")
            if separator and nfe.isdecimal():
                found.append(_score(metric, value, {**details, "nfe": int(nfe), "reference": DEVELOPMENT}))
    return found


# ---------------------------------------------------------------------------------------------------------- the last ones


def latest(run: Run) -> dict[tuple[int, float], dict[str, Score]]:
    """(NFE, guidance scale) -> metric -> what was measured last of such samples, in order; the metric that ranks first.

    Samples of some classes alone, or with other options of the sampler, count where there are no others. Scores of another
    step, number of images or reference than those of the last line are left out.
    """
    found: dict[tuple[int, float], dict[str, Score]] = {}
    for score in sorted(measured_scores(run), key=lambda score: score.is_plain):
        if score.nfe is not None:
            before = found.get((score.nfe, score.guidance), {})
            kept = {metric: other for metric, other in before.items() if other.compares_with(score)}
            found[score.nfe, score.guidance] = {**kept, score.metric: score}
    return dict(sorted(found.items()))


def scores_by_average(run: Run, step: int | None = None) -> dict[float | str, dict[str, float]]:
    """The last scores of each weight average on the development split, or those of a step: {0.05: {"fid_nfe1": 41.5}}."""
    found: dict[float | str, dict[str, float]] = {}
    for score in development_scores(run):
        if score.average is not None and step in (None, score.step):
            found.setdefault(score.average, {})[f"{score.metric}_nfe{score.nfe}"] = score.value
    return found


def last_scores(run: Run) -> dict[int, float]:
    """NFE -> the last score of the metric that ranks: of measured samples, else on the development split."""
    found: dict[int, float] = {}
    for scores in named_scores(run).values():
        found = {**scores, **found}
    return dict(sorted(found.items()))


def named_scores(run: Run) -> dict[str, dict[int, float]]:
    """What is known by the metric that ranks: what it is -> NFE -> score.

    First what was measured, by metric and guidance scale, then at NFEs without that the scores on the development split.
    """
    found: dict[str, dict[int, float]] = {}
    for (nfe, scale), scores in latest(run).items():
        metric, score = next(iter(scores.items()))
        found.setdefault(metric + (f", guidance {scale:g}" if scale else ""), {})[nfe] = score.value
    measured = {nfe for scores in found.values() for nfe in scores}
    for name, value in next(iter(scores_by_average(run).values()), {}).items():
        metric, _, nfe = name.rpartition("_nfe")
        if int(nfe) not in measured:
            found.setdefault(f"{metric}, {DEVELOPMENT}", {})[int(nfe)] = value
    return found


# ------------------------------------------------------------------------------------------------- scores and their samples


def samples_of(run: Run) -> dict[int, Path]:
    """NFE -> the folder of a run's samples, in order: that which was measured last, else in its samples/, else in ./samples.

    What is known to be of another run is left out.
    """
    here, found = run.folder.resolve(), {}
    measured = {
        nfe: Path(os.path.normpath(here / score.sampling["samples"]))
        for (nfe, _), scores in latest(run).items()
        for score in scores.values()
        if score.sampling.get("samples")
    }
    for folders in (nfe_folders(Path(SAMPLES)), nfe_folders(run.folder / SAMPLES), measured):
        for nfe, folder in folders.items():
            if folder.is_dir() and run.made(folder, unknown=folder.parent.resolve() == here / SAMPLES):
                found[nfe] = folder
    return dict(sorted(found.items()))


def add_to_run(
    folder: Path, challenge: str, values: Mapping[str, float], num_images: int, reference: str
) -> tuple[Run | None, str]:
    """Add what was measured of a folder of samples to the run that made them.

    challenge: what they were measured as. num_images: how many they are.
    Returns the run, or None, and in one line where the scores were added, or why nowhere.
    """
    sampled = sampled_from(folder)
    if not sampled:
        return None, f"added to no run: beside {folder} no sampling.json says what made it"
    if sampled.get("num_samples") != num_images:
        return None, f"added to no run: sampling.json is of {sampled.get('num_samples')} samples here, and these are other ones"
    checkpoint, was = find_checkpoint(sampled, folder.parent), Path(sampled["checkpoint"])
    if checkpoint is None:
        if was.is_file():
            return None, f"added to no run: {shown_path(was.parent)} is not the run of these samples, and theirs is not found"
        place = "put it below the folder of this command or beside the samples, or sample anew"
        return None, f"added to no run: the run of these samples, {was.parent.name}, is not found; {place}"
    run = Run.of(checkpoint)
    if not run.exists:
        return None, f"added to no run: {shown_path(checkpoint)} lies in none"
    if (run.challenge or DEFAULT_CHALLENGE) != challenge:
        theirs = f"{shown_path(run.folder)} is of challenge {run.challenge}"
        return None, f"added to no run: {theirs}, but the samples were measured as {challenge}"
    sampling = {OLD_NAMES.get(name, name): value for name, value in sampled.items() if name != "num_samples"}
    sampling |= {"checkpoint": checkpoint.name, "num_images": num_images, "reference": reference}
    add_scores(run, values, folder, **sampling)
    return run, f"added to {shown_path(run.folder / METRICS)}"
