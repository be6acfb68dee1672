"""Grade one submission: unpack, check, sample in the sandbox, measure, and write its result.

Nothing of the submission is imported here.
"""

import shutil
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.common.devices import resolve_device, resolve_precision
from src.common.files import PROJECT_ROOT, write_whole
from src.common.images import contact_sheet
from src.common.noise import image_seeds
from src.common.sampling import fitting_batch_size
from src.runs import nfe_name
from src.submission import audit
from src.submission.broker import Broker, Model
from src.submission.failures import Failed, one_line
from src.submission.intake import take_in
from src.submission.job import Job, Settings, new_result, read_secret, run_seed, write_result
from src.submission.judge import Judge, check_public, load_judge, noise_fid, seed_statistics
from src.submission.prepare import read_model

CHECK = 1 << 20  # beside the numbers of the runs, for what the secret decides of the checks
SHEET = (4, 8)  # rows and columns of the picture of samples
NOISE_SHARE = 0.9  # of noise's FID; images that are doubted and score better than it are accused
PRIVATE = (".ssh", ".aws", ".config", ".netrc", ".kaggle", ".gitconfig", ".cache")  # of the home folder


def run_job(job: Job) -> dict[str, Any]:
    """Grade, write result.json and the pictures into the team's folder, and return the result.

    A submission's failure is a result like any other. A fault of ours is one too, with the code grader_error and its
    traceback on stderr, so that the other teams go on.
    """
    start = time.monotonic()
    result = new_result(job)
    try:
        device = resolve_device(job.settings.device)
        result["device"] = str(device)
        grade(replace(job, settings=replace(job.settings, device=str(device))), result)
    except Failed as error:
        result |= {"status": "failed", "reason": error.reason, "nfe": {}}
    except Exception as error:  # ours: every error of the submission's is a Failed
        traceback.print_exc()
        result |= {"status": "failed", "reason": f"grader_error: {one_line(f'{type(error).__name__}: {error}')}", "nfe": {}}
    result["seconds"] = round(time.monotonic() - start, 1)
    write_result(job, result)
    return result


def grade(job: Job, result: dict[str, Any]) -> None:
    """Fill result's method, nfe, failures, remarks and replaced; the device of the job's settings is there. Raises Failed.

    What fails at one NFE leaves the others. Where all fail, the first reason is the submission's.
    """
    settings, secret, device = job.settings, read_secret(job.seed_file), torch.device(job.settings.device)
    torch.backends.cudnn.deterministic = True
    with tempfile.TemporaryDirectory(prefix="grade-") as work:
        model, result["replaced"] = prepare(job.submission, Path(work), settings, result["remarks"])
        model.to(device)
        judge = load_judge(settings.task, settings.reference_dir, settings.inception, device, settings.batch_size)
        failed = []
        for nfe in settings.nfe:
            try:
                result["nfe"][str(nfe)] = grade_nfe(model, job, judge, nfe, secret, result)
            except Failed as error:
                result["failures"][str(nfe)] = error.reason
                failed.append(error)
        if len(failed) == len(settings.nfe):
            raise failed[0]


def grade_nfe(model: Model, job: Job, judge: Judge, nfe: int, secret: int, result: dict[str, Any]) -> dict[str, Any]:
    """What the result says of one NFE; result's method and remarks are added to. Raises Failed."""
    settings = job.settings
    seeds = [run_seed(secret, nfe, index) for index in range(settings.seeds)]
    public = [] if settings.public_seed is None else [settings.public_seed]
    runs = [sample(model, job, nfe, seed) for seed in (*seeds, *public)]
    result["method"] = runs[0].method
    again_shares, still = sample_again(model, job, nfe, seeds, runs, secret)
    doubts = audit.doubt_lineage(np.concatenate([*(run.shares for run in runs), again_shares])) + still
    together = np.concatenate([run.images for run in runs])
    duplicates = audit.check_distinct(together)
    near = audit.check_not_reference(together, judge.reference)
    scores = [judge.score(run.images) for run in runs]
    for doubt in doubts:
        if min(score["fid"] for score in scores) < NOISE_SHARE * noise_fid(judge, settings.num_images):
            raise Failed("stored_images", f"NFE {nfe}: {doubt.text}")
        result["remarks"].append(f"{doubt.code}: NFE {nfe}: {doubt.text}; the score is that of noise, so it is graded")
    check_public(nfe, scores[: settings.seeds], scores[settings.seeds :])
    picture = write_sheet(job, nfe, runs[0].images)
    calls = sum(run.calls for run in runs) / len(together)
    return {
        **seed_statistics(scores[: settings.seeds]),
        "fid_public": scores[-1]["fid"] if public else None,
        "calls": calls,
        "gflop": calls * model.cost.flop / 1e9,
        "network_share": float(np.mean([run.shares.mean() for run in runs])),
        "duplicates": duplicates,
        "near_reference": near,
        "samples": picture.relative_to(job.board).as_posix(),
    }


# ------------------------------------------------------------------------------------------------------------- sampling


def prepare(submission: Path, work: Path, settings: Settings, remarks: list[str]) -> tuple[Model, list[str]]:
    """Unpack and check a submission without running it: its model, and the protected files that it had changed.

    The course's own are in their place. remarks are added to. Raises Failed.
    """
    taken = take_in(submission, work, remarks, settings.network, settings.task)
    changed = [name for name, state in taken.states.items() if state == "changed"]
    model = read_model(taken.top, work / "code", taken.config, taken.weights, settings.task)
    shutil.rmtree(taken.top)  # where there is no bubblewrap a sandbox sees the machine's files
    return model, changed


@dataclass(frozen=True)
class SampledImages:
    """What one process of a submission gave: images, uint8 (num_images, 3, H, W), the share of each that comes from the network
    (num_images,), and calls of networks times images."""

    images: np.ndarray
    shares: np.ndarray
    calls: int
    method: str


def sample(model: Model, job: Job, nfe: int, seed: int, fields: dict[int, torch.Tensor] | None = None) -> SampledImages:
    """One run in a fresh process of the submission, which knows nothing of what others of it have made.

    fields: by the number of a batch, what shifts the networks' answers in it: see audit.shift_by.
    """
    settings = job.settings
    device = torch.device(settings.device)
    home = tuple(Path.home() / name for name in PRIVATE)
    hidden = (job.seed_file, job.board, job.submission, Path(settings.reference_dir), PROJECT_ROOT / "data", *home)
    dtype = resolve_precision(settings.precision, device)
    made = []
    with Broker(model, settings.limits, settings.sandbox, settings.task, dtype, hidden) as broker:
        first = 0
        for number, seeds in enumerate(batches(seed, settings)):
            shifted = fields is not None and number in fields
            broker.shift = audit.shift_by(fields[number].to(device)) if shifted else None
            made.append(broker.sample(nfe, seeds, first))
            first += len(seeds)
    images, shares = (np.concatenate([getattr(batch, name) for batch in made]) for name in ("images", "shares"))
    return SampledImages(images, shares, broker.calls, broker.method)


def batches(seed: int, settings: Settings) -> list[list[int]]:
    """The images' seeds of a run, batch by batch."""
    size, count = fitting_batch_size(settings.batch_size, torch.device(settings.device)), settings.num_images
    return [image_seeds(seed, first, min(size, count - first)) for first in range(0, count, size)]


def sample_again(
    model: Model, job: Job, nfe: int, seeds: list[int], runs: list[SampledImages], secret: int
) -> tuple[np.ndarray, list[audit.Doubt]]:
    """Sample one of the secret runs in a second process: its images' shares, and what is to be doubted of it.

    Raises Failed where the same seeds give other images.

    In half of the batches the networks' answers are shifted a little: the images should change, and come from the network all
    the same. In the other half they must be equal bit for bit. The secret decides which run and which batches.
    """
    draw = np.random.default_rng([secret, nfe, CHECK])
    index = int(draw.integers(len(seeds)))
    groups, shape = batches(seeds[index], job.settings), job.settings.task.shape
    chosen = draw.permutation(len(groups))[: (len(groups) + 1) // 2]
    fields = {int(number): audit.smooth_fields(len(groups[number]), int(draw.integers(2**63)), shape) for number in chosen}
    first, again, start = runs[index].images, sample(model, job, nfe, seeds[index], fields), 0
    shifted = np.zeros(len(first), dtype=bool)
    for number, group in enumerate(groups):
        part = slice(start, start + len(group))
        if number in fields:
            shifted[part] = True
        elif not np.array_equal(first[part], again.images[part]):
            raise Failed(
                "not_reproducible",
                f"NFE {nfe}: the same seeds gave other images in a second process; draw all noise from torch's generator",
            )
        start += len(group)
    return again.shares, audit.doubt_change(first[shifted], again.images[shifted])


def write_sheet(job: Job, nfe: int, images: np.ndarray) -> Path:
    """A picture of the first images in the team's folder."""
    rows, columns = SHEET
    columns = min(columns, len(images))
    chosen = images[: rows * columns]
    lines = [chosen[first : first + columns] for first in range(0, len(chosen) - columns + 1, columns)]
    path = job.folder / f"{nfe_name(nfe)}.png"
    with write_whole(path) as partial:
        contact_sheet(lines, [""] * len(lines), scale=1).save(partial, format="PNG")
    return path
