"""Grade one submission: unpack, check, sample in the sandbox, measure, and write its result.

    python -m src.submission.team JOB.json DEVICE        # as `src.submission.grade` starts it, one process a team

Nothing of the submission is imported here.
"""

import hashlib
import json
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.common.cli import UserError, run_script
from src.common.devices import resolve_device, resolve_precision
from src.common.files import PROJECT_ROOT, load_json, write_whole
from src.common.images import contact_sheet, image_seeds
from src.submission import audit
from src.submission.archive import content_hash, copy_code, unpack
from src.submission.broker import Broker, Model
from src.submission.failures import Failed, one_line
from src.submission.judge import Judge, check_public, load_judge, noise_fid, summary
from src.submission.manifest import restore, states
from src.submission.readable import check_readable
from src.submission.sandbox import Limits
from src.submission.teams import folder_name
from src.submission.weights import read_weights

IMAGE_SHAPE = (3, 64, 64)
CPU_BATCH_SIZE = 8
CHECK = 1 << 20  # beside the numbers of the runs, for what the secret decides of the checks
SHEET = (4, 8)  # rows and columns of the picture of samples
NOISE_SHARE = 0.9  # of noise's FID; images that are doubted and score better than it are accused
PRIVATE = (".ssh", ".aws", ".config", ".netrc", ".kaggle", ".gitconfig", ".cache")  # of the home folder


@dataclass(frozen=True)
class Settings:
    """How every team of a board is graded.

    network: options of the challenge's UNet; none are the course's. public_seed: is graded beside the secret ones and has to
    be no better than they are; None leaves it out. sandbox: a kind of `sandbox.find_kind`.
    """

    reference_dir: str
    sandbox: str
    nfe: tuple[int, ...] = (1, 2, 4)
    seeds: int = 3
    num_images: int = 1000
    batch_size: int = 32
    device: str = "cuda"
    precision: str = "auto"
    public_seed: int | None = 42
    inception: str | None = None
    network: dict[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Settings":
        return cls(**{**values, "nfe": tuple(values["nfe"]), "limits": Limits(**values["limits"])})


@dataclass(frozen=True)
class Job:
    """One team's submission, the board its result goes to, the file of the secret, and remarks that the result is to hold."""

    team: str
    submission: Path
    board: Path
    seed_file: Path
    settings: Settings
    remarks: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.board / "teams" / folder_name(self.team)

    def write(self, path: Path) -> None:
        values = {**vars(self), **{name: str(getattr(self, name)) for name in ("submission", "board", "seed_file")}}
        with write_whole(path) as partial:
            partial.write_text(json.dumps({**values, "settings": asdict(self.settings)}, indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Job":
        values = load_json(path)
        paths = {name: Path(values[name]) for name in ("submission", "board", "seed_file")}
        settings, remarks = Settings.from_json(values["settings"]), tuple(values["remarks"])
        return cls(team=values["team"], settings=settings, remarks=remarks, **paths)


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


def new_result(job: Job) -> dict[str, Any]:
    """A result with all its keys, before anything is known."""
    return {
        "team": job.team,
        "submission": job.submission.name,
        "sha256": content_hash(job.submission),
        "status": "graded",
        "reason": None,
        "method": None,
        "nfe": {},
        "failures": {},
        "remarks": list(job.remarks),
        "seeds": job.settings.seeds,
        "num_images": job.settings.num_images,
        "replaced": [],
        "seconds": 0.0,
        "device": job.settings.device,
        "sandbox": job.settings.sandbox,
        "settings": settings_key(job),
    }


def write_result(job: Job, result: dict[str, Any]) -> None:
    result["graded_at"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with write_whole(job.folder / "result.json") as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n")


def grade(job: Job, result: dict[str, Any]) -> None:
    """Fill result's method, nfe, failures, remarks and replaced; the device of the job's settings is there. Raises Failed.

    What fails at one NFE leaves the others. Where all fail, the first reason is the submission's.
    """
    settings, secret, device = job.settings, read_secret(job.seed_file), torch.device(job.settings.device)
    torch.backends.cudnn.deterministic = True
    with tempfile.TemporaryDirectory(prefix="grade-") as work:
        model, result["replaced"] = prepare(job.submission, Path(work), settings.network, result["remarks"])
        model.to(device)
        judge = load_judge(settings.reference_dir, settings.inception, device, settings.batch_size)
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
    scores = [judge.measure(run.images) for run in runs]
    for doubt in doubts:
        if min(score["fid"] for score in scores) < NOISE_SHARE * noise_fid(judge, settings.num_images):
            raise Failed("stored_images", f"NFE {nfe}: {doubt.text}")
        result["remarks"].append(f"{doubt.code}: NFE {nfe}: {doubt.text}; the score is that of noise, so it is graded")
    check_public(nfe, scores[: settings.seeds], scores[settings.seeds :])
    picture = write_sheet(job, nfe, runs[0].images)
    calls = sum(run.calls for run in runs) / len(together)
    return {
        **summary(scores[: settings.seeds]),
        "fid_public": scores[-1]["fid"] if public else None,
        "calls": calls,
        "gflop": calls * model.cost.flop / 1e9,
        "network_share": float(np.mean([run.shares.mean() for run in runs])),
        "duplicates": duplicates,
        "near_reference": near,
        "samples": picture.relative_to(job.board).as_posix(),
    }


# ------------------------------------------------------------------------------------------------------------- sampling


def prepare(submission: Path, work: Path, network_options: dict[str, Any], remarks: list[str]) -> tuple[Model, list[str]]:
    """Unpack and check a submission without running it: its model, and the protected files that it had changed.

    The course's own are in their place. remarks are added to. Raises Failed.
    """
    top, code = work / "submission", work / "code"
    remarks += unpack(submission, top)
    audit.check_files(top)
    names = copy_code(top, code)
    changed = [name for name, state in states(top).items() if state == "changed"]
    restore(code)
    config = audit.read_config(top)
    weights = read_weights(top, network_options)
    check_readable(code, names, config, weights)
    cost = audit.measure_cost(next(iter(weights.networks.values())), IMAGE_SHAPE)
    shutil.rmtree(top)  # where there is no bubblewrap a sandbox sees the machine's files
    remarks += weights.remarks
    return Model(code, config, weights, cost), changed


@dataclass(frozen=True)
class Run:
    """What one process of a submission gave: images, uint8 (num_images, 3, H, W), the share of each that comes from the network
    (num_images,), and calls of networks times images."""

    images: np.ndarray
    shares: np.ndarray
    calls: int
    method: str


def sample(model: Model, job: Job, nfe: int, seed: int, fields: dict[int, torch.Tensor] | None = None) -> Run:
    """One run in a fresh process of the submission, which knows nothing of what others of it have made.

    fields: by the number of a batch, what shifts the networks' answers in it: see audit.shift_by.
    """
    settings = job.settings
    device = torch.device(settings.device)
    home = tuple(Path.home() / name for name in PRIVATE)
    hidden = (job.seed_file, job.board, job.submission, Path(settings.reference_dir), PROJECT_ROOT / "data", *home)
    dtype = resolve_precision(settings.precision, device)
    made = []
    with Broker(model, settings.limits, settings.sandbox, IMAGE_SHAPE, dtype, hidden) as broker:
        for number, seeds in enumerate(batches(seed, settings)):
            shifted = fields is not None and number in fields
            broker.shift = audit.shift_by(fields[number].to(device)) if shifted else None
            made.append(broker.sample(nfe, seeds))
    images, shares = (np.concatenate([getattr(batch, name) for batch in made]) for name in ("images", "shares"))
    return Run(images, shares, broker.calls, broker.method)


def batches(seed: int, settings: Settings) -> list[list[int]]:
    """The images' seeds of a run, batch by batch."""
    on_cpu = torch.device(settings.device).type == "cpu"
    size = min(settings.batch_size, CPU_BATCH_SIZE) if on_cpu else settings.batch_size
    count = settings.num_images
    return [image_seeds(seed, first, min(size, count - first)) for first in range(0, count, size)]


def sample_again(
    model: Model, job: Job, nfe: int, seeds: list[int], runs: list[Run], secret: int
) -> tuple[np.ndarray, list[audit.Doubt]]:
    """Sample one of the secret runs in a second process: its images' shares, and what is to be doubted of it.

    Raises Failed where the same seeds give other images.

    In half of the batches the networks' answers are shifted a little: the images should change, and come from the network all
    the same. In the other half they must be equal bit for bit. The secret decides which run and which batches.
    """
    draw = np.random.default_rng([secret, nfe, CHECK])
    index = int(draw.integers(len(seeds)))
    groups = batches(seeds[index], job.settings)
    chosen = draw.permutation(len(groups))[: (len(groups) + 1) // 2]
    fields = {
        int(number): audit.smooth_fields(len(groups[number]), int(draw.integers(2**63)), IMAGE_SHAPE) for number in chosen
    }
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
    path = job.folder / f"nfe={nfe}.png"
    with write_whole(path) as partial:
        contact_sheet(lines, [""] * len(lines), scale=1).save(partial, format="PNG")
    return path


# -------------------------------------------------------------------------------------------------------------- secrets


def read_secret(file: Path) -> int:
    """The number that all seeds of a board follow from. Raises UserError where the file is absent or others can read it."""
    if not file.is_file():
        raise UserError(f"no seed file {file}; it is made by python -m src.submission grade, or holds a hexadecimal number")
    if file.stat().st_mode & 0o077:
        raise UserError(f"{file} can be read by others; its seeds are secret: chmod 600 {file}")
    try:
        return int(file.read_text().strip(), 16)
    except ValueError as error:
        raise UserError(f"{file}: expected one hexadecimal number") from error


def run_seed(secret: int, nfe: int, index: int) -> int:
    """The seed of run `index` at this NFE: another for each NFE, so that images of one are of no use at another."""
    return int(np.random.SeedSequence([secret, nfe, index]).generate_state(1, np.uint64)[0] >> 1)


def settings_key(job: Job) -> str:
    """Equal for equal settings and secret, whichever of its GPUs is used: a result with another key is not of this board."""
    values = asdict(job.settings) | {"device": job.settings.device.partition(":")[0], "secret": read_secret(job.seed_file)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def main() -> None:
    job = Job.read(Path(sys.argv[1]))
    job = replace(job, settings=replace(job.settings, device=sys.argv[2]))
    result = run_job(job)
    sys.stdout.reconfigure(errors="replace")  # a team's name may have letters that a terminal lacks
    print(f"{job.team}: {result['reason'] or 'graded'} ({result['seconds']:.0f} s)", flush=True)


if __name__ == "__main__":
    run_script(main)
