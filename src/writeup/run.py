"""What a run's folder holds, read from the disk for its write-up."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import custom_model
from src.challenges import Challenge, get_challenge
from src.challenges.shared.challenge import FEW_CALLS
from src.challenges.shared.images import ImageChallenge
from src.common.checkpoints import MODEL_CONFIG
from src.common.cli import UserError
from src.common.files import load_json
from src.common.images import read_picture
from src.runs.folder import ORIGINS, PREVIEWS, SCORES, TRAINING_CONFIG, Run, nfe_folders, nfe_of, numbered
from src.runs.scores import latest, samples_of

EARLY_SHARE = 0.25  # of the steps: previews up to there show the early phases
SHEET_SCALE = 2  # the enlargement of preview sheets


@dataclass
class Writeup:
    """What a write-up says of a trained run. Parts that are absent are empty; the write-up names them."""

    folder: Path
    challenge: Challenge
    nfe: tuple[int, ...]  # the numbers of network calls that it has results of
    model: dict[str, Any]  # model_config.json
    training: dict[str, Any]  # training_config.json
    log: list[dict[str, Any]]
    previews: dict[int, Path]  # step -> sheet of samples
    samples: dict[int, Path]  # NFE -> folder of PNG files
    fid: dict[int, dict[str, Any]]  # NFE -> fid_score, of the metric that ranks, other metrics, kid, num_generated, step ...

    @property
    def steps(self) -> int:
        """The steps made so far."""
        return max((row["step"] for row in self.log), default=0)

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Name of a loss or of a development FID -> points (images seen, value)."""
        names = sorted({name for row in self.log for name in row if name.startswith(("loss", "fid_"))} - {"loss_by_time"})
        first = next((row["ema_half_life"] for row in self.log if "ema_half_life" in row), None)  # FIDs are of this average
        rows = [row for row in self.log if row.get("ema_half_life", first) == first]
        return {name: [(row["images_seen"], row[name]) for row in rows if name in row] for name in names}


def read_run(
    folder: Path, metrics: list[Path] | None = None, samples: Path | None = None, previews: Path | None = None
) -> Writeup:
    """What the run in this folder gives.

    metrics: results of measure_fid.py or src.evaluation; by default what measure_fid.py has added to the run's metrics.jsonl,
    else fid/nfe=K.json of the folder or metrics.json beside the samples.
    samples: a folder of folders nfe=K, by default where samples_of finds the run's. previews: a folder of
    step_NNNNNNN.png, by default folder/previews.

    Raises UserError where there is no run, it has not saved yet, a file is malformed, its samples are no images, or a path
    given is absent.
    """
    run = Run(folder)
    if not run.exists:
        raise UserError(f"{folder} holds no run: expected {TRAINING_CONFIG} there, which train.py writes into results/RUN")
    run.check_saved()
    try:
        challenge = get_challenge(run.challenge)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
    if not isinstance(challenge, ImageChallenge):
        raise UserError(f"{folder} is of challenge {challenge.name}: a write-up shows images, and its samples are none")
    for path in filter(None, (samples, previews)):
        if not path.is_dir():
            raise UserError(f"no folder {path}")
    found = nfe_folders(samples) if samples else samples_of(run)
    nfe = challenge.nfe
    if max(nfe) > FEW_CALLS:  # else all models are sampled alike, and none need be built to know it
        nfe = challenge.calls_of(find_method(folder / MODEL_CONFIG))
    return Writeup(
        folder,
        challenge,
        nfe,
        run.model,
        run.training,
        run.log(),
        numbered(previews or folder / PREVIEWS, "step_", ".png"),
        found,
        dict(sorted((read_fid(path) for path in metrics) if metrics else measured_fid(run, found).items())),
    )


def measured_fid(run: Run, samples: dict[int, Path]) -> dict[int, dict[str, Any]]:
    """NFE -> figures, as read_fid has them, of all that was measured of a run.

    What measure_fid.py has added to the run counts most; of the same number of samples, evaluated beside it, KID is there too.
    """
    files = [file for folder in samples.values() if (file := folder / "metrics.json").is_file()]
    found = dict(read_fid(path) for path in (*files, *(run.folder / SCORES).glob("nfe=*.json")))
    for (nfe, _), scores in latest(run).items():
        first, beside = next(iter(scores.values())), found.get(nfe, {})
        reference = str(first.reference or first.sampling.get("num_reference"))  # as lines of earlier releases have it
        figures = {"num_generated": first.num_images, "step": first.step}
        figures |= {"num_reference": int(reference)} if reference.isdecimal() else {}
        figures |= {"kid": beside.get("kid")} if beside.get("num_generated") == first.num_images else {}
        figures |= {"fid_score": first.value, **{metric: score.value for metric, score in scores.items()}}
        found[nfe] = {name: value for name, value in figures.items() if value is not None}
    return found


def read_fid(path: Path) -> tuple[int, dict[str, Any]]:
    """The NFE and the figures of a result of measure_fid.py, or of metrics.json of src.evaluation.

    The NFE stands in the name of the file, of its folder or of the folder that was measured (nfe=K).
    """
    result = load_json(path)
    figures = dict(result) if isinstance(result, dict) else {}
    modes = figures.get("metrics", {})
    if "clean" in modes:
        figures |= {"fid_score": modes["clean"]["fid"]["value"], "kid": modes["clean"]["kid"]["value"]}
    if "pytorch" in modes:
        figures["fid_pytorch"] = modes["pytorch"]["fid"]["value"]
        figures.setdefault("fid_score", figures["fid_pytorch"])
    if not isinstance(figures.get("fid_score"), (int, float)):
        raise UserError(f"{path}: expected a result of measure_fid.py, found no fid_score")
    for name in (path.name, path.parent, figures.get("generated_dir", "")):
        if (nfe := nfe_of(str(name))) is not None:
            return nfe, figures
    raise UserError(f"{path}: of which NFE? Name the file nfe=K.json, or measure a folder nfe=K")


def find_method(config: Path) -> type:
    """The class of the model that model_config.json describes. Raises UserError where custom_model.py builds none of it."""
    try:
        return type(custom_model.create_custom_model(device="cpu", **load_json(config)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{config}: {error}") from error


def earlier_runs(run: Run) -> list[tuple[str, Path, float | None]]:
    """The runs that this one was built on, and those that they were, each once: (its role, its folder, seconds or None)."""
    found: dict[Path, tuple[str, Path, float | None]] = {}
    waiting = [run]
    while waiting:
        student = waiting.pop(0)
        for key, role in zip(ORIGINS, ("teacher", "first weights"), strict=True):
            checkpoint = student.origin(key)
            if checkpoint is None or checkpoint.parent.resolve() in found:
                continue
            earlier = Run.of(checkpoint)
            found[earlier.folder.resolve()] = (role, earlier.folder, earlier.seconds())
            if earlier.exists:
                waiting.append(earlier)
    return list(found.values())


def early_previews(run: Writeup, most: int = 8) -> dict[int, Path]:
    """Up to `most` previews of the first quarter of the steps, evenly chosen from those after a thousandth of them.

    Of a run that is too short to have one there, the first one before its end.
    """
    steps = [step for step in run.previews if run.steps / 1000 <= step <= EARLY_SHARE * run.steps]
    steps = steps or [step for step in run.previews if step < run.steps][:1]
    chosen = sorted({round(i) for i in np.linspace(0, len(steps) - 1, min(most, len(steps)))})
    return {steps[i]: run.previews[steps[i]] for i in chosen}


def cut_sheet(path: Path, height: int, width: int) -> np.ndarray:
    """The samples of a preview sheet, uint8 (rows, columns, H, W, 3): a row per NFE, the same noise in a column.

    The words on the left are narrower than an image of the sheet, which holds from 22 pixels per sample on.

    Raises UserError where the file is no sheet of samples of this size.
    """
    sheet = np.asarray(read_picture(path, str(path)))
    rows, columns = sheet.shape[0] // (SHEET_SCALE * height), sheet.shape[1] // (SHEET_SCALE * width)
    if not rows or not columns or sheet.shape[0] % (SHEET_SCALE * height):
        raise UserError(f"{path}: {sheet.shape[1]}x{sheet.shape[0]} is no sheet of samples of {width}x{height} pixels")
    images = sheet[::SHEET_SCALE, sheet.shape[1] - SHEET_SCALE * width * columns :: SHEET_SCALE]
    return images.reshape(rows, height, columns, width, 3).swapaxes(1, 2)


def first_samples(folder: Path, count: int) -> np.ndarray:
    """The first images of a folder of samples, uint8 (n, H, W, 3) with n at most count."""
    images = [np.asarray(read_picture(path, str(path))) for path in sorted(folder.glob("*.png"))[:count]]
    if not images:
        raise UserError(f"no PNG files in {folder}")
    if len({image.shape for image in images}) > 1:
        raise UserError(f"{folder}: images of different sizes")
    return np.stack(images)
