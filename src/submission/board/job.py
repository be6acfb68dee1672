"""One team's grading: its settings, what its result holds, and the secret that its seeds follow from."""

import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from src.challenges import DEFAULT, Challenge, get_challenge
from src.common.cli import UserError
from src.common.files import load_json, save_json
from src.submission import bounds
from src.submission.board.teams import folder_name
from src.submission.handin.archive import content_hash
from src.submission.sandbox.process import KIND

RESULT = "result.json"  # in a team's folder of the board


@dataclass(frozen=True)
class Settings:
    """How every team of a board is graded.

    challenge: its name. network: options of its network; none are the challenge's own. public_seed: that of the course's
    script, whose images are graded beside the secret ones and have to be no better than they are; None leaves it out.
    data_root: of the training images, of which the nearest are shown; None where they are not at hand.
    """

    reference_dir: str
    challenge: str = DEFAULT
    nfe: tuple[int, ...] = get_challenge().nfe
    seeds: int = 3
    num_images: int = get_challenge().num_samples
    batch_size: int = 32
    device: str = "cuda"
    precision: str = "auto"
    public_seed: int | None = 42
    inception: str | None = None
    data_root: str | None = None
    network: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> Challenge:
        """The challenge itself."""
        return get_challenge(self.challenge)


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

    @property
    def log(self) -> Path:
        """What only the team and the staff may read of a failure; beside the board, which is published."""
        return work_folder(self.board) / f"{self.folder.name}.log"

    def write(self, path: Path) -> None:
        save_json({name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}, path)

    @classmethod
    def read(cls, path: Path) -> "Job":
        values = load_json(path)
        values |= {name: Path(values[name]) for name in ("submission", "board", "seed_file")}
        settings = values["settings"] | {"nfe": tuple(values["settings"]["nfe"])}
        return cls(**values | {"settings": Settings(**settings), "remarks": tuple(values["remarks"])})


def work_folder(board: Path) -> Path:
    """Beside the board, which is published: the jobs' descriptions, a cluster's logs, and each team's own errors."""
    return board.with_name(f".{board.name}.jobs")


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
        "sandbox": KIND,
        **keys_of(job),
    }


def write_result(job: Job, result: dict[str, Any]) -> None:
    result["graded_at"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    save_json(result, job.folder / RESULT)


def keys_of(job: Job) -> dict[str, str]:
    """Equal for equal settings, secret and bounds, whichever of its GPUs is used: other results are not of this board."""
    others = {"device": job.settings.device.partition(":")[0], "data_root": None, "secret": read_secret(job.seed_file)}
    text = json.dumps(asdict(job.settings) | others, sort_keys=True)
    return {"settings": hashlib.sha256(text.encode()).hexdigest()[:16], "bounds": bounds.digest()}


def result_of(job: Job) -> dict[str, Any] | None:
    """What this very submission was graded with, under whatever settings and bounds; None where it was not."""
    file = job.folder / RESULT
    result = load_json(file) if file.is_file() else {}
    fault = (result.get("reason") or "").partition(":")[0] == "grader_error"
    return None if fault or result.get("sha256") != content_hash(job.submission) else result


def is_of(result: dict[str, Any], keys: dict[str, str]) -> bool:
    """Whether a result was made under these keys: those of other settings or bounds do not compare."""
    return all(result.get(name) == value for name, value in keys.items())


def read_results(job: Job) -> list[dict[str, Any]]:
    """All results of the job's board that compare with its own, by team."""
    results = [load_json(file) for file in sorted((job.board / "teams").glob(f"*/{RESULT}"))]
    return [result for result in results if is_of(result, keys_of(job))]


def make_secret(file: Path, board: Path) -> None:
    """Write a fresh secret where there is none, readable by its owner alone. UserError for a place that is shown around."""
    if board in file.parents:
        raise UserError(f"--seed_file {file} is inside of the board, which is published; give another place")
    if file.exists():
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(secrets.token_hex(16) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error


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
