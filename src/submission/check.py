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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from src.challenges import Challenge, add_challenge_flag, get_challenge, graded_challenge
from src.common.cli import Parser, UserError, number
from src.common.commands import run_command
from src.runs.folder import nfe_name
from src.submission.archive import unpack
from src.submission.broker import Broker, NoPlan
from src.submission.contents import CHECKPOINT, COURSE_PACKAGES, REQUIRED, SAMPLED, closure, foreign_imports
from src.submission.failures import Failed
from src.submission.intake import read_config, take_in
from src.submission.manifest import restore, states
from src.submission.prepare import read_model
from src.submission.sandbox import Limits, find_bubblewrap
from src.submission.weights import Weights


class NotPassed(Exception):
    """A check that did not pass: what was found, and what to do."""

    def __init__(self, found: str, todo: str):
        super().__init__(found)
        self.todo = todo


class Note(str):
    """What a check found that costs nothing: the submission passes, and its author should know."""


@dataclass
class Submission:
    """An unpacked submission and how it is run.

    Args:
        folder: where it lies, with the staff's protected files in place.
        states: what the submission had of the protected files before that, as `manifest.states` tells it.
        python: the interpreter of the processes.
        seconds: the most that one of them may take.
        network: options of the challenge's network, where they are not its own defaults.
        challenge: the name of the challenge; by default the one that the submission's model_config.json names.
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
        words = [self.python, *map(str, command)]
        try:
            done = subprocess.run(
                words,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=self.seconds,
            )
        except subprocess.TimeoutExpired:
            raise NotPassed(f"took more than {self.seconds:g} s", "make it faster, or give more --seconds") from None
        if done.returncode:
            lines = done.stdout.strip().splitlines() or ["no output"]
            raise NotPassed(f"exit code {done.returncode}: {lines[-1][:300]}", "run it by hand in the unpacked folder")
        return done.stdout


def required_files(submission: Submission) -> str:
    there = {name for name in REQUIRED if (submission.folder / name).is_file() and submission.states.get(name) != "absent"}
    absent = [name for name in REQUIRED if name not in there]
    if absent:
        raise NotPassed(f"absent: {', '.join(absent)}", "make the zip with python -m src.submission pack")
    size = (submission.folder / CHECKPOINT).stat().st_size
    return f"all {len(REQUIRED)}; {CHECKPOINT} has {size / 1e6:.1f} MB"


def protected_files(submission: Submission) -> str:
    names = {state: [name for name, found in submission.states.items() if found == state] for state in ("changed", "course")}
    if names["changed"]:
        return Note(f"changed, the staff put their own in place: {', '.join(names['changed'])}")
    return "as handed out" + (f"; the course's originals: {', '.join(names['course'])}" if names["course"] else "")


def imports(submission: Submission) -> str:
    files = {path.relative_to(submission.folder).as_posix() for path in submission.folder.rglob("*.py")}
    sampled = closure(submission.folder, SAMPLED)
    foreign = foreign_imports(submission.folder, sampled, needed_only=True)
    if foreign:
        told = "; ".join(f"{module} in {', '.join(names)}" for module, names in foreign.items())
        raise NotPassed(
            f"sampling imports what is not in the course's environment: {told}",
            "remove the import, guard it by try, or add the module to the zip",
        )
    others = foreign_imports(submission.folder, files)
    if others:
        told = "; ".join(f"{module} in {', '.join(names)}" for module, names in others.items())
        return Note(f"not in the course's environment, and not needed for sampling: {told}")
    return f"{len(files)} files import only Python's own modules and the course's packages"


def requirements(submission: Submission) -> str:
    lines = (submission.folder / "requirements.txt").read_text(encoding="utf-8-sig", errors="replace").splitlines()
    names = [re.split(r"[\s\[<>=!~;@#]", line.strip(), maxsplit=1)[0].lower().replace("_", "-") for line in lines]
    foreign = sorted({name for name in names if name and not name.startswith("-") and name not in COURSE_PACKAGES})
    if foreign:
        return Note(f"further packages, which the staff do not install: {', '.join(foreign)}")
    return f"{len([name for name in names if name])} packages, all of the course"


def weights(submission: Submission) -> str:
    weights = submission.weights
    count = sum(len(network.state_dict()) for network in weights.networks.values())
    others = len(weights.extras) + len(weights.zeros)
    told = f"{count} tensors of the challenge's network" + (f", {others} others" if others else "")
    return Note("; ".join([told, *weights.remarks])) if weights.remarks else told


def training_starts(submission: Submission) -> str:
    foreign = foreign_imports(submission.folder, closure(submission.folder, ["train.py"]), needed_only=True)
    if foreign:
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
    """As the grader records it: in its sandbox, with stand-ins in the place of the network's answers."""
    try:
        find_bubblewrap()
    except UserError as error:
        return Note(f"not recorded here: {error}")
    challenge, found, own = submission.task, [], []
    with tempfile.TemporaryDirectory() as folder:
        model = read_model(submission.folder, Path(folder) / "code", read_config(submission.folder), submission.weights)
        with Broker(model, Limits(), challenge) as broker:
            for nfe in challenge.nfe:
                try:
                    plan = broker.record(nfe).shown
                    found.append(f"NFE {nfe}: {plan.summary}")
                except NoPlan as error:
                    own.append(f"NFE {nfe}: {error}")
                except Failed as error:
                    lines = error.private.strip().splitlines()  # the submission is the reader's own
                    raise NotPassed(": ".join([str(error), *lines[:1]]), "see what sample() does there") from error
    if own:
        raise NotPassed("; ".join(own), "write it as docs/grading.md says, or it is ranked apart: sampled by its own code")
    return "; ".join(found)


def writeup(submission: Submission) -> str:
    files = sorted(path.name for path in submission.folder.glob("*.pdf"))
    if len(files) != 1:
        raise NotPassed(
            f"expected one PDF at the top, found {', '.join(files) or 'none'}",
            "python -m src.writeup RUN makes it; if it is handed in elsewhere, --no_writeup",
        )
    folder = submission.folder.resolve()
    try:
        run_command("src.writeup", "--check", folder / files[0], "--nfe_list", *submission.task.nfe)
    except UserError as error:
        problems = str(error).removeprefix(f"{folder}{os.sep}")
        raise NotPassed(problems, "edit writeup.md of the run and make the PDF again") from error
    return f"{files[0]} has every item the course asks for"


CHECKS: dict[str, Callable[[Submission], str]] = {
    "required files": required_files,
    "protected files": protected_files,
    "imports": imports,
    "requirements.txt": requirements,
    "weights": weights,
    "training starts": training_starts,
    "sampling": sampling,
    "plan": plan,
    "write-up": writeup,
}


@dataclass(frozen=True)
class Result:
    """What one check found, and what to do about it: nothing where it passed."""

    name: str
    found: str
    todo: str = ""

    @property
    def verdict(self) -> str:
        return "FAIL" if self.todo else "note" if isinstance(self.found, Note) else "pass"


def check(source: Path, folder: Path, checks: Sequence[str] = tuple(CHECKS), **options: Any) -> Iterator[Result]:
    """Unpack a submission into the new folder and run the checks of these names there, one result each.

    Where required files are absent, the checks after that one are not run: they would only say so again. options: fields of
    Submission. Raises UserError where the zip cannot be unpacked.
    """
    unpack(source, folder)
    submission = Submission(folder, states(folder), **options)
    restore(folder)
    for name in checks:
        try:
            result = Result(name, CHECKS[name](submission))
        except NotPassed as error:
            result = Result(name, str(error), error.todo)
        except UserError as error:
            result = Result(name, str(error), "mend what the line names")
        yield result
        if result.todo and name == "required files":
            return


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
    failed, done = [], 0
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        python = make_environment(args.env, Path(folder) / "env") if args.env else sys.executable
        options = {"python": python, "device": args.device, "num_samples": args.num_samples, "seconds": args.seconds}
        options["challenge"] = args.challenge
        for result in check(args.submission, Path(folder) / "submission", names, **options):
            done += 1
            print(f"{result.verdict}  {result.name}: {result.found}", flush=True)
            if result.todo:
                print(f"      -> {result.todo}", flush=True)
                failed.append(result.name)
    if failed:
        waiting = f" ({len(names) - done} were not run)" if done < len(names) else ""
        raise UserError(f"{len(failed)} of {len(names)} checks failed: {', '.join(failed)}{waiting}")
    print(f"{args.submission}: all {len(names)} checks passed")
