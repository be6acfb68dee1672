"""Grade one submission: unpack, check, sample in the sandbox, measure, and write its result.

    python -m src.submission.team JOB.json DEVICE        # as `src.submission.grade` starts it, one process a team

Nothing of the submission is imported here.
"""

import hashlib
import json
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from src.common.cli import UserError, run_script
from src.common.devices import resolve_device, resolve_precision
from src.common.files import PROJECT_ROOT, load_json, write_whole
from src.common.images import contact_sheet, image_seeds
from src.evaluation.features import cached_features, extract_features, read_images
from src.evaluation.fid import frechet_distance
from src.evaluation.inception import Inception
from src.evaluation.kid import kid
from src.evaluation.weights import load_inception
from src.submission import audit
from src.submission.archive import content_hash, copy_code, unpack
from src.submission.broker import Broker, Model, NetworkCall
from src.submission.failures import Failed, one_line
from src.submission.manifest import differences, restore
from src.submission.sandbox import Limits

IMAGE_SHAPE = (3, 64, 64)
CPU_BATCH_SIZE = 8
CHECK = 1 << 20  # beside the numbers of the runs, for what the secret decides of the checks
SHIFT = 0.15  # of the deviation of the network's answers
SHEET = (4, 8)  # rows and columns of the picture of samples
PUBLIC_SHARE = 0.8  # of the best secret seed's FID; a public seed below it is tuned
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
    """One team's submission, where its result goes (board/teams/TEAM/), and the file of the secret."""

    team: str
    submission: Path
    board: Path
    seed_file: Path
    settings: Settings

    @property
    def folder(self) -> Path:
        return self.board / "teams" / self.team

    def write(self, path: Path) -> None:
        values = {**vars(self), **{name: str(getattr(self, name)) for name in ("submission", "board", "seed_file")}}
        with write_whole(path) as partial:
            partial.write_text(json.dumps({**values, "settings": asdict(self.settings)}, indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Job":
        values = load_json(path)
        paths = {name: Path(values[name]) for name in ("submission", "board", "seed_file")}
        return cls(team=values["team"], settings=Settings.from_json(values["settings"]), **paths)


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
    """Fill result's method, nfe and replaced; the device of the job's settings is there. Raises Failed."""
    settings, secret, device = job.settings, read_secret(job.seed_file), torch.device(job.settings.device)
    torch.backends.cudnn.deterministic = True
    with tempfile.TemporaryDirectory(prefix="grade-") as work:
        model, result["replaced"] = prepare(job.submission, Path(work), settings.network)
        model.network.to(device, memory_format=torch.channels_last)
        judge = load_judge(settings.reference_dir, settings.inception, device, settings.batch_size)
        for nfe in settings.nfe:
            seeds = [run_seed(secret, nfe, index) for index in range(settings.seeds)]
            public = [] if settings.public_seed is None else [settings.public_seed]
            runs = [sample(model, job, nfe, seed) for seed in (*seeds, *public)]
            result["method"] = runs[0].method
            images = [run.images for run in runs]
            check_images(model, job, nfe, seeds, images, secret)
            together = np.concatenate(images)
            duplicates = audit.check_distinct(together)
            near = audit.check_not_reference(together, judge.reference)
            scores = [judge.measure(run.images) for run in runs]
            check_public(nfe, scores[: settings.seeds], scores[settings.seeds :])
            picture = write_sheet(job, nfe, images[0])
            calls = sum(run.calls for run in runs) / len(together)
            result["nfe"][str(nfe)] = {
                **summary(scores[: settings.seeds]),
                "fid_public": scores[-1]["fid"] if public else None,
                "calls": calls,
                "gflop": calls * model.cost.flop / 1e9,
                "duplicates": duplicates,
                "near_reference": near,
                "samples": picture.relative_to(job.board).as_posix(),
            }


# ------------------------------------------------------------------------------------------------------------- sampling


def prepare(submission: Path, work: Path, network_options: dict[str, Any]) -> tuple[Model, list[str]]:
    """Unpack and check a submission without running it: its model, and the protected files that it had changed.

    The course's own are in their place. Raises Failed.
    """
    top, code = work / "submission", work / "code"
    unpack(submission, top)
    audit.check_files(top)
    names = copy_code(top, code)
    changed = [name for name, how in differences(top).items() if how == "changed"]
    restore(code)
    audit.check_code(code, names)
    config = audit.read_config(top)
    network, extras = audit.read_checkpoint(top, network_options)
    return Model(code, config, network, extras, audit.measure_cost(network, IMAGE_SHAPE)), changed


@dataclass(frozen=True)
class Run:
    """What one process of a submission gave: images, uint8 (num_images, 3, H, W), and calls of the network times images."""

    images: np.ndarray
    calls: int
    method: str


def sample(model: Model, job: Job, nfe: int, seed: int, fields: dict[int, torch.Tensor] | None = None) -> Run:
    """One run in a fresh process of the submission, which knows nothing of what others of it have made.

    fields: by the number of a batch, what shifts the network's answers in it: see shift_answers.
    """
    settings, network = job.settings, model.network
    device = next(network.parameters()).device
    home = tuple(Path.home() / name for name in PRIVATE)
    hidden = (job.seed_file, job.board, job.submission, Path(settings.reference_dir), PROJECT_ROOT / "data", *home)
    dtype = resolve_precision(settings.precision, device)
    images = []
    with Broker(model, settings.limits, settings.sandbox, IMAGE_SHAPE, dtype, hidden) as broker:
        for number, seeds in enumerate(batches(seed, settings)):
            shifted = fields is not None and number in fields
            broker.network = shift_answers(network, fields[number].to(device)) if shifted else network
            images.append(broker.sample(nfe, seeds))
    return Run(np.concatenate(images), broker.calls, broker.method)


def smooth_fields(count: int, seed: int) -> torch.Tensor:
    """One random field for each of count images, smooth in space, of deviation 1: (count, 3, H, W)."""
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    fields = F.interpolate(coarse, IMAGE_SHAPE[1:], mode="bilinear")
    return fields / fields.std(dim=(1, 2, 3), keepdim=True)


def shift_answers(network: torch.nn.Module, fields: torch.Tensor) -> NetworkCall:
    """The network with each image's answers shifted by its field (B, 3, H, W), SHIFT of the answers' deviation in size.

    An image made of such answers has another shading, and is otherwise as good as before: without the weights a model cannot
    tell them from the network's own.
    """

    def answer(x: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        given = network(x, timestep, condition)
        return given + (SHIFT * given.float().std() * fields[: len(x)]).to(given.dtype)

    return answer


def batches(seed: int, settings: Settings) -> list[list[int]]:
    """The images' seeds of a run, batch by batch."""
    on_cpu = torch.device(settings.device).type == "cpu"
    size = min(settings.batch_size, CPU_BATCH_SIZE) if on_cpu else settings.batch_size
    count = settings.num_images
    return [image_seeds(seed, first, min(size, count - first)) for first in range(0, count, size)]


def check_images(model: Model, job: Job, nfe: int, seeds: list[int], images: list[np.ndarray], secret: int) -> None:
    """Sample one of the secret runs again, and raise Failed where its images do not depend on what they should.

    In half of the batches the network's answers are shifted a little: the images must change. In the other half they must be
    the same bit for bit. The secret decides which run and which batches, and both processes look the same from inside, so
    that a model that cheats in some batches only is found too.
    """
    draw = np.random.default_rng([secret, nfe, CHECK])
    index = int(draw.integers(len(seeds)))
    groups = batches(seeds[index], job.settings)
    chosen = draw.permutation(len(groups))[: (len(groups) + 1) // 2]
    fields = {int(number): smooth_fields(len(groups[number]), int(draw.integers(2**63))) for number in chosen}
    again, first = sample(model, job, nfe, seeds[index], fields).images, 0
    for number, group in enumerate(groups):
        part = slice(first, first + len(group))
        if number in fields:
            audit.check_change(images[index][part], again[part], nfe)
        elif not np.array_equal(images[index][part], again[part]):
            raise Failed("not_reproducible", f"NFE {nfe}: the same seeds gave other images in a second process")
        first += len(group)


# ------------------------------------------------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class Judge:
    """The reference images, uint8 (M, 3, H, W), their features, and the network that makes features."""

    reference: np.ndarray
    features: np.ndarray
    inception: Inception
    batch_size: int

    def measure(self, images: np.ndarray) -> dict[str, float]:
        """The scores of a run's images, uint8 (N, 3, H, W): FID in clean-fid's mode, and KID on the same features."""
        features = extract_features(images, self.inception, "clean", self.batch_size)
        return {"fid": frechet_distance(features, self.features), "kid": kid(features, self.features)}


@lru_cache(maxsize=1)
def load_judge(reference_dir: str, inception_file: str | None, device: torch.device, batch_size: int) -> Judge:
    """Read the reference once a process. Raises UserError where images or weights are absent."""
    reference = read_images(reference_dir)
    inception = load_inception(inception_file, device)
    return Judge(reference, cached_features(reference, inception, "clean", batch_size), inception, batch_size)


def summary(scores: list[dict[str, float]]) -> dict[str, Any]:
    """FID and KID of the secret seeds: their means, their standard deviations (of N - 1; 0 for one seed), and each FID."""
    values = {name: [score[name] for score in scores] for name in ("fid", "kid")}
    spread = {name: float(np.std(each, ddof=1)) if len(each) > 1 else 0.0 for name, each in values.items()}
    return {
        "fid": float(np.mean(values["fid"])),
        "fid_spread": spread["fid"],
        "fid_seeds": values["fid"],
        "kid": float(np.mean(values["kid"])),
        "kid_error": spread["kid"],
    }


def check_public(nfe: int, secret: list[dict[str, float]], public: list[dict[str, float]]) -> None:
    """Raise Failed where the public seed's FID is far below that of every secret seed."""
    best = min(score["fid"] for score in secret)
    for score in public:
        if score["fid"] < PUBLIC_SHARE * best:
            raise Failed(
                "seed_tuned", f"NFE {nfe}: FID {score['fid']:.1f} for the public seed, at best {best:.1f} for secret ones"
            )


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
    print(f"{job.team}: {result['reason'] or 'graded'} ({result['seconds']:.0f} s)", flush=True)


if __name__ == "__main__":
    run_script(main)
