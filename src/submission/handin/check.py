"""Prove before the deadline that a submission runs: `python -m src.submission check submission.zip`.

The zip is unpacked into an empty folder, the staff's own files are put in place, and everything runs there in new processes.
"""

import contextlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from src.challenges import Challenge, add_challenge_flag, get_challenge, graded_challenge
from src.common.cli import Parser, UserError, number
from src.common.commands import run_command
from src.runs.folder import nfe_name
from src.submission.failures import Failed
from src.submission.handin.archive import unpack
from src.submission.handin.contents import CHECKPOINT, COURSE_PACKAGES, REQUIRED, SAMPLED, closure, foreign_imports, listed
from src.submission.handin.kit import known_blobs, restore, states
from src.submission.handin.weights import Weights
from src.submission.sandbox.broker import Broker
from src.submission.sandbox.intake import read_config, take_in
from src.submission.sandbox.process import find_bubblewrap
from src.submission.sandbox.sampler import Model, NoPlan

HandIn = TypeVar("HandIn")


class NotPassed(Exception):
    """A check that did not pass: what was found, and what to do."""

    def __init__(self, found: str, todo: str):
        super().__init__(found)
        self.todo = todo


class Note(str):
    """What a check found that costs nothing: the submission passes, and its author should know."""


@dataclass(frozen=True)
class Result:
    """What one check found, and what to do about it: nothing where it passed."""

    name: str
    found: str
    todo: str = ""

    @property
    def verdict(self) -> str:
        return "FAIL" if self.todo else "note" if isinstance(self.found, Note) else "pass"


@dataclass
class Submission:
    """An unpacked submission and how it is run.

    folder: where it lies, with the staff's protected files in place. states: what it had of these before (kit.states). python:
    the interpreter of the processes. seconds: the most that one of them may take. network: options of the challenge's network,
    where they are not its own defaults. challenge: its name; by default the one that model_config.json names.
    """

    folder: Path
    states: dict[str, str]
    python: str = sys.executable
    device: str = "cpu"
    num_samples: int = 4
    seconds: float = 1800.0
    network: dict[str, Any] = field(default_factory=dict)
    challenge: str | None = None

    @cached_property
    def task(self) -> Challenge:
        """The challenge. Raises UserError."""
        return graded_challenge(self.challenge or read_config(self.folder).get("challenge"))

    @cached_property
    def weights(self) -> Weights:
        """What the checkpoint holds, read as the grader does. Raises UserError."""
        with tempfile.TemporaryDirectory() as folder:
            return take_in(self.folder, Path(folder), [], self.network, self.task).weights

    def run(self, *command: str | Path) -> str:
        """Run Python with these arguments in the folder, without this process's own settings; its output, stdout and stderr.

        Raises NotPassed with its last line where it fails or takes too long.
        """
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        options = {"cwd": self.folder, "env": environment, "text": True, "errors": "replace", "timeout": self.seconds}
        try:
            done = subprocess.run([self.python, *map(str, command)], **pipes, **options)
        except subprocess.TimeoutExpired:
            raise NotPassed(f"took more than {self.seconds:g} s", "make it faster, or give more --seconds") from None
        if done.returncode:
            lines = done.stdout.strip().splitlines() or ["no output"]
            raise NotPassed(f"exit code {done.returncode}: {lines[-1][:300]}", "run it by hand in the unpacked folder")
        return done.stdout


def required_files(submission: Submission) -> str:
    there = {name for name in REQUIRED if (submission.folder / name).is_file() and submission.states.get(name) != "absent"}
    if absent := [name for name in REQUIRED if name not in there]:
        raise NotPassed(f"absent: {', '.join(absent)}", "make the zip with python -m src.submission pack")
    size = (submission.folder / CHECKPOINT).stat().st_size
    return f"all {len(REQUIRED)}; {CHECKPOINT} has {size / 1e6:.1f} MB"


def protected_files(submission: Submission) -> str:
    changed, course = (
        ", ".join(name for name, found in submission.states.items() if found == state) for state in ("changed", "course")
    )
    if changed:
        return Note(f"changed, the staff put their own in place: {changed}")
    return "as handed out" + (f"; the course's originals: {course}" if course else "")


def imports(submission: Submission) -> str:
    files = {path.relative_to(submission.folder).as_posix() for path in submission.folder.rglob("*.py")}
    if foreign := foreign_imports(submission.folder, closure(submission.folder, SAMPLED), needed_only=True):
        found = f"sampling imports what is not in the course's environment: {listed(foreign)}"
        raise NotPassed(found, "remove the import, guard it by try, or add the module to the zip")
    if others := foreign_imports(submission.folder, files):
        return Note(f"not in the course's environment, and not needed for sampling: {listed(others)}")
    return f"{len(files)} files import only Python's own modules and the course's packages"


def requirements(submission: Submission) -> str:
    lines = (submission.folder / "requirements.txt").read_text(encoding="utf-8-sig", errors="replace").splitlines()
    names = [re.split(r"[\s\[<>=!~;@#]", line.strip(), maxsplit=1)[0].lower().replace("_", "-") for line in lines]
    if foreign := sorted({name for name in names if name and not name.startswith("-") and name not in COURSE_PACKAGES}):
        return Note(f"further packages, which the staff do not install: {', '.join(foreign)}")
    return f"{len([name for name in names if name])} packages, all of the course"


def weights(submission: Submission) -> str:
    weights = submission.weights
    count = sum(len(network.state_dict()) for network in weights.networks.values())
    others = len(weights.extras) + len(weights.zeros)
    found = f"{count} tensors of the challenge's network" + (f", {others} others" if others else "")
    return Note("; ".join([found, *weights.remarks])) if weights.remarks else found


def training_starts(submission: Submission) -> str:
    if foreign := foreign_imports(submission.folder, closure(submission.folder, ["train.py"]), needed_only=True):
        return Note(f"not started: train.py needs what is not in the course's environment: {', '.join(foreign)}")
    if "--num_iterations" not in submission.run("train.py", "--help"):
        raise NotPassed("train.py --help does not list --num_iterations", "keep the course's flags")
    return "train.py --help lists the course's flags"


def sampling(submission: Submission) -> str:
    count, challenge = submission.num_samples, submission.task
    flags = ["--num_samples", str(count), "--nfe_list", *map(str, challenge.nfe), "--device", submission.device]
    with tempfile.TemporaryDirectory() as folder:
        flags += ["--challenge", challenge.name, "--save_dir", folder]
        submission.run("sampling.py", "--ckpt_path", CHECKPOINT, *flags)
        folders = {nfe: Path(folder) / nfe_name(nfe) for nfe in challenge.nfe}
        for path in folders.values():
            challenge.check(path, count)
        images = {nfe: challenge.read(path) for nfe, path in folders.items()}
    for nfe, batch in images.items():
        if len(np.unique(batch.reshape(count, -1), axis=0)) < count:
            raise NotPassed(f"NFE {nfe}: images of different noise are equal", "start from the noise of each image's seed")
    for one, other in itertools.combinations(images, 2):
        if np.array_equal(images[one], images[other]):
            raise NotPassed(f"NFE {one} and {other} give the same images", "use num_inference_timesteps in sample()")
    return f"{count} images at NFE {', '.join(map(str, challenge.nfe))}, all different"


def plan(submission: Submission) -> str:
    """As the grader records it: in its sandbox, with stand-ins for the network's answers."""
    try:
        find_bubblewrap()
    except UserError as error:
        return Note(f"not recorded here: {error}")
    challenge, found, own = submission.task, [], []
    with tempfile.TemporaryDirectory() as folder:
        model = Model.of(submission.folder, Path(folder) / "code", read_config(submission.folder), submission.weights)
        with Broker(model, challenge) as broker:
            for nfe in challenge.nfe:
                try:
                    found.append(f"NFE {nfe}: {broker.record(nfe).shown.summary}")
                except NoPlan as error:
                    own.append(f"NFE {nfe}: {error}")
                except Failed as error:
                    lines = error.private.strip().splitlines()  # the submission is the reader's own
                    raise NotPassed(": ".join([str(error), *lines[:1]]), "see what sample() does there") from error
    if own:
        raise NotPassed("; ".join(own), "write it as docs/grading.md says, or it is ranked apart: sampled by its own code")
    return "; ".join(found)


def one_pdf(folder: Path, todo: str) -> Path:
    """The only PDF of a folder. Raises NotPassed, with what to do, where there is none, or several."""
    files = sorted(folder.glob("*.pdf"))
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise NotPassed(f"expected one PDF at the top, found {names}", todo)
    return files[0]


def writeup(submission: Submission) -> str:
    file = one_pdf(submission.folder, "python -m src.writeup RUN makes it; if it is handed in elsewhere, --no_writeup")
    file = file.resolve()
    try:
        run_command("src.writeup", "--check", file, "--nfe_list", *submission.task.nfe)
    except UserError as error:
        problems = str(error).removeprefix(f"{file.parent}{os.sep}")
        raise NotPassed(problems, "edit writeup.md of the run and make the PDF again") from error
    return f"{file.name} has every item the course asks for"


FIRST = "required files"
CHECKS: dict[str, Callable[[Submission], str]] = {
    FIRST: required_files,
    "protected files": protected_files,
    "imports": imports,
    "requirements.txt": requirements,
    "weights": weights,
    "training starts": training_starts,
    "sampling": sampling,
    "plan": plan,
    "write-up": writeup,
}


def results_of(hand_in: HandIn, checks: Mapping[str, Callable[[HandIn], str]]) -> Iterator[Result]:
    """One result for each check. Where FIRST fails the others are not run: they would only say so again."""
    for name, proof in checks.items():
        try:
            result = Result(name, proof(hand_in))
        except NotPassed as error:
            result = Result(name, str(error), error.todo)
        except UserError as error:
            result = Result(name, str(error), "mend what the line names")
        yield result
        if result.todo and name == FIRST:
            return


def check(source: Path, folder: Path, checks: Sequence[str] = tuple(CHECKS), **options: Any) -> Iterator[Result]:
    """Unpack a submission into the new folder and run the checks of these names there, one result each.

    options: fields of Submission. Raises UserError where the zip cannot be unpacked.
    """
    unpack(source, folder)
    submission = Submission(folder, states(folder, known_blobs(handed_out=True)), **options)
    restore(folder)
    yield from results_of(submission, {name: CHECKS[name] for name in checks})


def print_results(source: Path, results: Iterator[Result], count: int) -> None:
    """A line each, and two where there is something to do. Raises UserError that names the failed ones of `count` checks."""
    failed, done = [], 0
    for result in results:
        done += 1
        print(f"{result.verdict}  {result.name}: {result.found}", flush=True)
        if result.todo:
            print(f"      -> {result.todo}", flush=True)
            failed.append(result.name)
    if failed:
        waiting = f" ({count - done} were not run)" if done < count else ""
        raise UserError(f"{len(failed)} of {count} checks failed: {', '.join(failed)}{waiting}")
    print(f"{source}: all {count} checks passed")


def make_environment(requirements: Path, folder: Path) -> str:
    """A new virtual environment with the packages of a requirements file; its Python. Raises UserError where pip fails."""
    print(f"installing {requirements} into a fresh environment ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"{requirements} cannot be installed: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")
    return python


@contextlib.contextmanager
def images_of(submission: Path) -> Iterator[Path]:
    """The folder of the images that are handed in: the submission itself, or the folder images of a zip, unpacked."""
    if submission.is_dir() or not submission.exists():
        yield submission / "images" if (submission / "images").is_dir() else submission
        return
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        try:
            unpack(submission, Path(folder) / "submission")
        except Failed as error:
            raise UserError(f"{submission}: {error}") from error
        yield Path(folder) / "submission" / "images"


def main(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m src.submission check", description="prove that a submission runs")
    parser.add_argument("submission", type=Path, help="the zip, or a folder of the same files, or of images")
    parser.add_argument("--num_samples", type=number(int, 2), default=4, help="images sampled at each NFE")
    add_challenge_flag(parser, default=None)
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    parser.add_argument("--no_writeup", action="store_true", help="the write-up is handed in elsewhere")
    parser.add_argument("--env", type=Path, metavar="FILE", help="run it in a new environment of this requirements file")
    parser.add_argument("--seconds", type=number(float, 1), default=1800, help="the most that one process may take")
    args = parser.parse_args(argv)
    if args.env and not args.env.is_file():
        raise UserError(f"--env {args.env}: no such file")
    challenge = get_challenge(args.challenge) if args.challenge else None
    if challenge and challenge.hands_in_images:
        with images_of(args.submission) as folder:
            challenge.check(folder, challenge.num_handed_in)
        print(f"{args.submission}: {challenge.num_handed_in:,} images as challenge {challenge.name} takes them")
        return
    names = [name for name in CHECKS if name != "write-up" or not args.no_writeup]
    options = {name: getattr(args, name) for name in ("device", "num_samples", "seconds", "challenge")}
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        python = make_environment(args.env, Path(folder) / "env") if args.env else sys.executable
        results = check(args.submission, Path(folder) / "submission", names, python=python, **options)
        print_results(args.submission, results, len(names))
