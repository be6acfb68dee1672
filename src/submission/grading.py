"""Grade one submission: unpack, check, record its sampler in the sandbox, run its plans here, measure, and write its result.

Nothing of the submission is imported here.
"""

import os
import shutil
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
from src.common.devices import resolve_device, resolve_precision
from src.common.files import write_whole
from src.common.flops import flops_counted
from src.common.images import contact_sheet, to_uint8
from src.common.networks import takes_condition
from src.common.noise import image_seeds
from src.common.sampling import fitting_batch_size
from src.evaluation.neighbours import nearest
from src.runs.folder import nfe_name
from src.submission import audit
from src.submission.broker import COURSE_SEED, Broker, Model, NoPlan, Plans, checked, run_plan
from src.submission.draws import CourseDraws, draws_of
from src.submission.failures import Failed, one_line, quoted
from src.submission.intake import take_in
from src.submission.job import Job, Settings, new_result, read_secret, run_seed, write_result
from src.submission.judge import Judge, check_public, load_judge, seed_statistics
from src.submission.plan.replay import Law
from src.submission.plan.text import lines
from src.submission.prepare import read_model

SHEET = (4, 8)  # rows and columns of the picture of samples
COURSE_BATCH = 32  # images at a time of the course's sampling.py
OWN_CODE = "sampled by its own code: images are not proved to come from the network"


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
        model, result["replaced"] = prepare(job.submission, Path(work), settings, result["remarks"])
        model.to(device)
        judge = load_judge(settings.task, settings.reference_dir, settings.inception, device, settings.batch_size)
        samplers = record(model, settings)
        failed = []
        for nfe, sampler in samplers.items():
            result["method"] = sampler.method or result["method"]
            try:
                result["nfe"][str(nfe)] = grade_nfe(sampler, job, judge, result)
            except Failed as error:
                result["failures"][str(nfe)] = error.reason
                write_private(job, error)
                failed.append(error)
        if len(failed) == len(settings.nfe):
            raise failed[0]


def grade_nfe(sampler: "Sampler", job: Job, judge: Judge, result: dict[str, Any]) -> dict[str, Any]:
    """What the result says of one NFE; result's remarks are added to. Raises Failed."""
    settings, secret, nfe = job.settings, read_secret(job.seed_file), sampler.nfe
    if sampler.failure:
        raise sampler.failure
    seeds = [run_seed(secret, nfe, index) for index in range(settings.seeds)]
    try:
        runs = [sampler.images(seed) for seed in seeds]
        runs += [sampler.course_images()] if settings.public_seed is not None else []
    except NoPlan as error:  # its question has another answer for these images
        sampler.plan, sampler.own_code = None, one_line(str(error))
        runs = [sampler.images(seed) for seed in (*seeds, *([] if settings.public_seed is None else [settings.public_seed]))]
    if sampler.own_code:
        result["remarks"].append(f"NFE {nfe}: {OWN_CODE} ({quoted(sampler.own_code, 200)})")
    together = np.concatenate(runs)
    duplicates = audit.check_distinct(together)
    near = audit.check_not_reference(together, judge.reference)
    scores = [judge.score(run) for run in runs]
    check_public(nfe, scores[: settings.seeds], scores[settings.seeds :])
    picture, plan = write_sheet(job, nfe, runs[0]), sampler.plan and sampler.plan.shown
    calls = plan.calls if plan else sampler.calls / len(together)
    told = plan and {"operations": plan.operations, "calls": plan.calls, "numbers": plan.numbers, "lines": lines(plan)}
    return {
        **seed_statistics(scores[: settings.seeds]),
        "fid_public": scores[-1]["fid"] if settings.public_seed is not None else None,
        "calls": calls,
        "gflop": calls * flop_of(sampler.model, settings) / 1e9,
        "duplicates": duplicates,
        "near_reference": near,
        "samples": picture.relative_to(job.board).as_posix(),
        "plan": told,
        "own_code": sampler.own_code or None,
    }


def write_private(job: Job, error: Failed) -> None:
    """Words of the submission's own error go where the team and the staff can read them, and nobody else."""
    if not error.private:
        return
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", errors="replace") as file:
        file.write(f"{error.reason}\n{error.private}\n\n")


# ------------------------------------------------------------------------------------------------------------- sampling


def prepare(submission: Path, work: Path, settings: Settings, remarks: list[str]) -> tuple[Model, list[str]]:
    """Unpack and check a submission without running it: its model, and the protected files that it had changed.

    The course's own are in their place. remarks are added to. Raises Failed.
    """
    taken = take_in(submission, work, remarks, settings.network, settings.task)
    model = read_model(taken.top, work / "code", taken.config, taken.weights)
    shutil.rmtree(taken.top)
    return model, [name for name, state in taken.states.items() if state == "changed"]


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
        device, made = torch.device(self.settings.device), []
        size = fitting_batch_size(self.settings.batch_size, device)
        if self.plan is None:
            return self._by_own_code(seed, size)
        size, first = 1 if self.plan.image_by_image else size, 0
        while first < self.settings.num_images:
            seeds = image_seeds(seed, first, min(size, self.settings.num_images - first))
            made.append(self._run(self.plan, first, len(seeds), draws_of(seeds, device)))
            first += len(seeds)
        return np.concatenate(made)

    def course_images(self) -> np.ndarray:
        """The images that the course's sampling.py makes: its batches, its order of draws, its arrangement of memory."""
        if self.course is None or self.draws is None:
            return self.images(COURSE_SEED)
        size, count = 1 if self.course.image_by_image else COURSE_BATCH, self.settings.num_images
        for network in self.model.networks.values():
            network.to(memory_format=torch.contiguous_format)
        firsts = range(0, count, size)
        made = [self._run(self.course, first, min(size, count - first), self.draws.draw) for first in firsts]
        self.model.to(torch.device(self.settings.device))
        return np.concatenate(made)

    def _run(self, plans: Plans, first: int, count: int, draw: Callable[[int, Law], torch.Tensor]) -> np.ndarray:
        labels = labels_in_turn(self.model, first, count).get("labels")
        images = run_plan(plans.of(count), self.model, count, draw, labels)
        return to_uint8(checked(images, (count, *self.settings.task.shape), self.nfe)).cpu().numpy()

    def _by_own_code(self, seed: int, size: int) -> np.ndarray:
        """In a fresh process of the submission, which knows nothing of what others of it have made."""
        made, first, count = [], 0, self.settings.num_images
        with Broker(self.model, self.settings.limits, self.settings.task) as broker:
            while first < count:
                seeds = image_seeds(seed, first, min(size, count - first))
                made.append(to_uint8(broker.sample(self.nfe, seeds, first, precision_of(self.settings))).numpy())
                first += len(seeds)
        self.calls += broker.calls
        return np.concatenate(made)


def record(model: Model, settings: Settings) -> dict[int, Sampler]:
    """NFE -> its sampler. The sandbox is started once, and again only after a failure. Raises Failed where no model is made."""
    samplers = {nfe: Sampler(nfe, model, settings) for nfe in settings.nfe}
    waiting, dtype, draws = list(settings.nfe), precision_of(settings), None
    batches = (fitting_batch_size(settings.batch_size, model.device), COURSE_BATCH)
    count = settings.num_images
    sizes = sorted({part for size in batches for part in (min(size, count), count % size) if part})
    while waiting:
        with Broker(model, settings.limits, settings.task) as broker:
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


def precision_of(settings: Settings) -> torch.dtype:
    return resolve_precision(settings.precision, torch.device(settings.device))


def flop_of(model: Model, settings: Settings) -> int:
    """What one call of the network takes for one image."""
    network, zero = next(iter(model.networks.values())), torch.zeros(1, device=model.device)
    with torch.inference_mode(), flops_counted() as counter:
        network(torch.zeros(1, *settings.task.shape, device=model.device), zero, zero if takes_condition(network) else None)
    return counter.get_total_flops()


def write_sheet(job: Job, nfe: int, images: np.ndarray) -> Path:
    """A picture of the first images in the team's folder; below them the training images that are nearest to those of the last
    row, where these are at hand."""
    rows, columns = SHEET
    columns = min(columns, len(images))
    chosen = images[: rows * columns]
    lines = [chosen[first : first + columns] for first in range(0, len(chosen) - columns + 1, columns)]
    if job.settings.data_root:
        training = load_training(job.settings.task, job.settings.data_root)
        lines.append(training[nearest(*(part.reshape(len(part), -1) for part in (lines[-1], training)))[0]])
    path = job.folder / f"{nfe_name(nfe)}.png"
    with write_whole(path) as partial:
        contact_sheet(lines, [""] * len(lines), scale=1).save(partial, format="PNG")
    return path


@lru_cache(maxsize=1)
def load_training(challenge: Challenge, root: str) -> np.ndarray:
    """The training images, uint8 (T, C, H, W), once for all NFEs. Raises UserError where they cannot be read."""
    return challenge.load("train", root)[0]
