"""Grade one submission: unpack, check, record its sampler in the sandbox, run its plans here, measure, and write its result.

Nothing of the submission is imported here. python -m src.submission.board.grading JOB.json DEVICE grades one in a process of
its own, as grade.py starts it.
"""

import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.challenges import Challenge
from src.common.classes import labels_in_turn
from src.common.cli import run_script
from src.common.devices import resolve_device, resolve_precision
from src.common.files import load_json, write_whole
from src.common.flops import flops_counted
from src.common.images import contact_sheet, to_uint8
from src.common.networks import takes_condition
from src.common.noise import image_seeds
from src.common.sampling import fitting_batch_size
from src.evaluation.neighbours import nearest
from src.runs.folder import nfe_name
from src.submission.board.job import Job, Settings, new_result, read_secret, run_seed, work_folder, write_result
from src.submission.board.measure import (
    Reference,
    check_distinct,
    check_not_reference,
    check_public,
    load_reference,
    seed_statistics,
)
from src.submission.failures import Failed, one_line, quoted
from src.submission.handin.kit import known_blobs, states
from src.submission.plan.replay import Law
from src.submission.plan.text import lines
from src.submission.sandbox.broker import Broker
from src.submission.sandbox.intake import take_in
from src.submission.sandbox.sampler import COURSE_SEED, CourseDraws, Model, NoPlan, Plans, checked, draws_of, run_plan

SHEET = (4, 8)  # rows and columns of the picture of samples
COURSE_BATCH = 32  # images at a time of the course's sampling.py
OWN_CODE = "sampled by its own code: images are not proved to come from the network"
KIT = ".kit.json"  # in a board's work folder: the kit's blobs, so that git is asked once for all teams


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
        write_private(job, error)
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
    settings, device = job.settings, torch.device(job.settings.device)
    torch.backends.cudnn.deterministic = True
    with tempfile.TemporaryDirectory(prefix="grade-") as work:
        model, result["replaced"] = prepare(job.submission, Path(work), settings, result["remarks"], job.board)
        model.to(device)
        place = settings.task, settings.reference_dir, settings.inception, device, settings.batch_size
        reference, failed = load_reference(*place), []
        for nfe, sampler in record(model, settings).items():
            result["method"] = sampler.method or result["method"]
            try:
                result["nfe"][str(nfe)] = grade_nfe(sampler, job, reference, result)
            except Failed as error:
                result["failures"][str(nfe)] = error.reason
                write_private(job, error)
                failed.append(error)
        if len(failed) == len(settings.nfe):
            raise failed[0]


def grade_nfe(sampler: "Sampler", job: Job, reference: Reference, result: dict[str, Any]) -> dict[str, Any]:
    """What the result says of one NFE; result's remarks are added to. Raises Failed."""
    settings, secret, nfe = job.settings, read_secret(job.seed_file), sampler.nfe
    if sampler.failure:
        raise sampler.failure
    seeds = [run_seed(secret, nfe, index) for index in range(settings.seeds)]
    public = [] if settings.public_seed is None else [settings.public_seed]
    try:
        runs = [sampler.images(seed) for seed in seeds] + [sampler.course_images() for _ in public]
    except NoPlan as error:  # its question has another answer for these images
        sampler.plan, sampler.own_code = None, one_line(error)
        runs = [sampler.images(seed) for seed in (*seeds, *public)]
    if sampler.own_code:
        result["remarks"].append(f"NFE {nfe}: {OWN_CODE} ({quoted(sampler.own_code, 200)})")
    together = np.concatenate(runs)
    duplicates, near = check_distinct(together), check_not_reference(together, reference.images)
    scores = [reference.score(run) for run in runs]
    check_public(nfe, scores[: len(seeds)], scores[len(seeds) :])
    picture, plan = write_sheet(job, nfe, runs[0]), sampler.plan and sampler.plan.shown
    calls = plan.calls if plan else sampler.calls / len(together)
    return {
        **seed_statistics(scores[: len(seeds)]),
        "fid_public": scores[-1]["fid"] if public else None,
        "calls": calls,
        "gflop": calls * flop_of(sampler.model, settings.task.shape) / 1e9,
        "duplicates": duplicates,
        "near_reference": near,
        "samples": picture.relative_to(job.board).as_posix(),
        "plan": plan and {"operations": plan.operations, "calls": plan.calls, "numbers": plan.numbers, "lines": lines(plan)},
        "own_code": sampler.own_code or None,
    }


def write_private(job: Job, error: Failed) -> None:
    """Words of the submission's own error go where the team and the staff can read them, and nobody else."""
    if error.private:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", errors="replace") as file:
            file.write(f"{error.reason}\n{error.private}\n\n")


def prepare(
    submission: Path, work: Path, settings: Settings, remarks: list[str], board: Path | None = None
) -> tuple[Model, list[str]]:
    """Unpack and check a submission without running it: its model, and the protected files that it had changed.

    The kit's own are put over them. remarks are added to. board: whose work folder may hold KIT. Raises Failed.
    """
    taken = take_in(submission, work, remarks, settings.network, settings.task)
    stored = board and work_folder(board) / KIT
    found = states(taken.top, load_json(stored) if stored and stored.is_file() else known_blobs())
    model = Model.of(taken.top, work / "code", taken.config, taken.weights)
    shutil.rmtree(taken.top)
    return model, [name for name, state in found.items() if state == "changed"]


@dataclass
class Sampler:
    """How a submission's images at one NFE are made: by its plan, or by its own code in the sandbox; or why there are none.

    plan: within the autocast that the board is graded in. course: its plan without one, and the draws in the order of the
    course's script. own_code: why there is no plan. calls: of networks times images, counted where its own code samples.
    """

    nfe: int
    model: Model
    settings: Settings
    method: str = ""
    plan: Plans | None = None
    course: Plans | None = None
    draws: CourseDraws | None = None
    own_code: str = ""
    failure: Failed | None = None
    calls: int = 0

    def images(self, seed: int) -> np.ndarray:
        """The images of a run, uint8 (num_images, 3, H, W), from a seed for each. Raises Failed, and NoPlan."""
        device, count = self.model.device, self.settings.num_images
        size = fitting_batch_size(self.settings.batch_size, device)
        if self.plan is None:
            return self._by_own_code(seed, size)
        made = []
        for first, part in batches(1 if self.plan.image_by_image else size, count):
            made.append(self._run(self.plan, first, part, draws_of(image_seeds(seed, first, part), device)))
        return np.concatenate(made)

    def course_images(self) -> np.ndarray:
        """The images that the course's sampling.py makes: its batches, its order of draws, its arrangement of memory."""
        if self.course is None or self.draws is None:
            return self.images(COURSE_SEED)
        device, size = self.model.device, 1 if self.course.image_by_image else COURSE_BATCH
        self.model.to(device, torch.contiguous_format)
        parts = batches(size, self.settings.num_images)
        made = [self._run(self.course, first, part, self.draws.draw) for first, part in parts]
        self.model.to(device)
        return np.concatenate(made)

    def _run(self, plans: Plans, first: int, count: int, draw: Callable[[int, Law], torch.Tensor]) -> np.ndarray:
        labels = labels_in_turn(self.model, first, count).get("labels")
        images = run_plan(plans.of(count), self.model, count, draw, labels)
        return to_uint8(checked(images, (count, *self.settings.task.shape), self.nfe)).cpu().numpy()

    def _by_own_code(self, seed: int, size: int) -> np.ndarray:
        """In a fresh process of the submission, which knows nothing of what others of it have made."""
        made, precision = [], resolve_precision(self.settings.precision, self.model.device)
        with Broker(self.model, self.settings.task) as broker:
            for first, part in batches(size, self.settings.num_images):
                images = broker.sample(self.nfe, image_seeds(seed, first, part), first, precision)
                made.append(to_uint8(images).numpy())
        self.calls += broker.calls
        return np.concatenate(made)


def batches(size: int, count: int) -> list[tuple[int, int]]:
    """The first image and the number of images of each batch."""
    return [(first, min(size, count - first)) for first in range(0, count, size)]


def record(model: Model, settings: Settings) -> dict[int, Sampler]:
    """NFE -> its sampler. The sandbox is started once, and again only after a failure. Raises Failed where no model is made."""
    samplers = {nfe: Sampler(nfe, model, settings) for nfe in settings.nfe}
    waiting, dtype, draws = list(settings.nfe), resolve_precision(settings.precision, model.device), None
    both = (fitting_batch_size(settings.batch_size, model.device), COURSE_BATCH)
    sizes = sorted({part for size in both for _, part in batches(size, settings.num_images)})
    while waiting:
        with Broker(model, settings.task) as broker:
            draws = draws or CourseDraws(broker.random_states, COURSE_SEED, model.device)
            while waiting:
                earlier = settings.nfe[: -len(waiting)]  # the course's script draws theirs first
                sampler = samplers[waiting.pop(0)]
                sampler.method = broker.method
                try:
                    sampler.plan = broker.record(sampler.nfe, dtype, sizes)
                    sampler.course = sampler.plan if dtype == torch.float32 else broker.record(sampler.nfe, sizes=sizes)
                    sampler.draws = draws if all(samplers[nfe].draws for nfe in earlier) else None
                except NoPlan as error:
                    sampler.plan, sampler.own_code = None, str(error)
                except Failed as error:
                    sampler.failure = error
                    break
    return samplers


def flop_of(model: Model, shape: tuple[int, ...]) -> int:
    """What one call of the network takes for one image of this shape."""
    zero = torch.zeros(1, device=model.device)
    with torch.inference_mode(), flops_counted() as counter:
        model.network(zero.new_zeros(1, *shape), zero, zero if takes_condition(model.network) else None)
    return counter.get_total_flops()


def write_sheet(job: Job, nfe: int, images: np.ndarray) -> Path:
    """A picture of the first images in the team's folder; below them the training images that are nearest to those of the last
    row, where these are at hand."""
    columns = min(SHEET[1], len(images))
    rows = [images[first : first + columns] for first in range(0, min(len(images), SHEET[0] * SHEET[1]) - columns + 1, columns)]
    if job.settings.data_root:
        training = load_training(job.settings.task, job.settings.data_root)
        rows.append(training[nearest(*(part.reshape(len(part), -1) for part in (rows[-1], training)))[0]])
    path = job.folder / f"{nfe_name(nfe)}.png"
    with write_whole(path) as partial:
        contact_sheet(rows, [""] * len(rows), scale=1).save(partial, format="PNG")
    return path


@lru_cache(maxsize=1)
def load_training(challenge: Challenge, root: str) -> np.ndarray:
    """The training images, uint8 (T, C, H, W), once for all NFEs. Raises UserError where they cannot be read."""
    return challenge.load("train", root)[0]


def main() -> None:
    job = Job.read(Path(sys.argv[1]))
    result = run_job(replace(job, settings=replace(job.settings, device=sys.argv[2])))
    print(f"{job.team}: {result['reason'] or 'graded'} ({result['seconds']:.0f} s)", flush=True)


if __name__ == "__main__":
    run_script(main)
