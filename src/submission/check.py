"""Prove before the deadline that a submission runs: `python -m src.submission check submission.zip`.

The zip is unpacked into an empty folder, the staff's own files are put in place, and everything runs there in new processes.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.evaluation.features import read_images
from src.submission.archive import unpack
from src.submission.contents import CHECKPOINT, CONFIG, COURSE_PACKAGES, REQUIRED, foreign_imports
from src.submission.manifest import differences, restore
from src.utils import Parser, UserError, load_json, load_torch, number

NFES = (1, 2, 4)
IMAGE_SHAPE = (3, 64, 64)
NETWORK_TENSORS = "network."
EXTRA_BYTES = 1 << 20  # of tensors beside the network's


class NotPassed(Exception):
    """A check that did not pass: what was found, and what to do."""

    def __init__(self, found: str, todo: str):
        super().__init__(found)
        self.todo = todo


@dataclass
class Submission:
    """An unpacked submission and how it is run.

    folder: where it lies; protected files are the staff's from the check of them on. python: the interpreter of the processes.
    seconds: the most that one of them may take.
    """

    folder: Path
    python: str
    device: str
    num_samples: int
    seconds: float
    changed: dict[str, str]

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
    absent = [name for name in REQUIRED if not (submission.folder / name).is_file()]
    if absent:
        raise NotPassed(f"absent: {', '.join(absent)}", "make the zip with python -m src.submission pack")
    size = (submission.folder / CHECKPOINT).stat().st_size
    return f"all {len(REQUIRED)}; {CHECKPOINT} has {size / 1e6:.1f} MB"


def protected_files(submission: Submission) -> str:
    changed = [name for name, how in submission.changed.items() if how == "changed"]
    if changed:
        raise NotPassed(f"changed: {', '.join(changed)}", "put the course's originals back; the staff will use theirs")
    absent = len(submission.changed)
    return "as the course handed them out" + (f"; {absent} that the staff put in place are not in the zip" if absent else "")


def imports(submission: Submission) -> str:
    files = sorted(path.relative_to(submission.folder).as_posix() for path in submission.folder.rglob("*.py"))
    foreign = foreign_imports(submission.folder, files)
    if foreign:
        told = "; ".join(f"{module} in {', '.join(names)}" for module, names in foreign.items())
        raise NotPassed(f"not in the course's environment: {told}", "remove the import, or the file if nothing needs it")
    return f"{len(files)} files import only Python's own modules and the course's packages"


def requirements(submission: Submission) -> str:
    lines = (submission.folder / "requirements.txt").read_text(errors="replace").splitlines()
    names = [re.split(r"[\s\[<>=!~;@#]", line.strip(), maxsplit=1)[0].lower().replace("_", "-") for line in lines]
    foreign = sorted({name for name in names if name and name not in COURSE_PACKAGES})
    if foreign:
        raise NotPassed(f"further packages: {', '.join(foreign)}", "the staff's environment has none but the course's")
    return f"{len([name for name in names if name])} packages, all of the course"


def weights(submission: Submission) -> str:
    saved = load_torch(submission.folder / CHECKPOINT)
    state = saved.get("state_dict") if isinstance(saved, dict) else None
    if not isinstance(state, dict):
        raise NotPassed(f"{CHECKPOINT} holds no 'state_dict'", "save it with save_model of src/utils.py")
    config = load_json(submission.folder / CONFIG)
    if not isinstance(config, dict):
        raise NotPassed(f"{CONFIG} is not a JSON object of options", "save it with save_model of src/utils.py")
    extra = {name: tensor for name, tensor in state.items() if not name.startswith(NETWORK_TENSORS)}
    size = sum(tensor.numel() * tensor.element_size() for tensor in extra.values())
    if size > EXTRA_BYTES:
        raise NotPassed(
            f"{size:,} bytes beside the network's weights ({', '.join(list(extra)[:3])} ...)",
            "hand in the U-Net's weights only: teachers and discriminators stay at home",
        )
    return f"{len(state) - len(extra)} tensors of the network" + (f", {len(extra)} others of {size:,} bytes" if extra else "")


def training_starts(submission: Submission) -> str:
    if "--num_iterations" not in submission.run("train.py", "--help"):
        raise NotPassed("train.py --help does not list --num_iterations", "keep the course's flags")
    return "train.py --help lists the course's flags"


def sampling(submission: Submission) -> str:
    count = submission.num_samples
    flags = ["--num_samples", str(count), "--nfe_list", *map(str, NFES), "--device", submission.device]
    with tempfile.TemporaryDirectory() as folder:
        submission.run("sampling.py", "--ckpt_path", CHECKPOINT, "--save_dir", folder, *flags)
        images = {nfe: read_images(Path(folder) / f"nfe={nfe}") for nfe in NFES}
    for nfe, batch in images.items():
        if batch.shape != (count, *IMAGE_SHAPE):
            raise NotPassed(f"NFE {nfe}: images {batch.shape}, expected {(count, *IMAGE_SHAPE)}", "see sample() of your model")
        if len(np.unique(batch.reshape(count, -1), axis=0)) < count:
            raise NotPassed(f"NFE {nfe}: images of different noise are equal", "start from the noise of each image's seed")
    for one, other in ((1, 2), (2, 4), (1, 4)):
        if np.array_equal(images[one], images[other]):
            raise NotPassed(f"NFE {one} and {other} give the same images", "use num_inference_timesteps in sample()")
    return f"{count} images at NFE {', '.join(map(str, NFES))}, all different"


CHECKS: tuple[tuple[str, Callable[[Submission], str]], ...] = (
    ("required files", required_files),
    ("protected files", protected_files),
    ("imports", imports),
    ("requirements.txt", requirements),
    ("weights", weights),
    ("training starts", training_starts),
    ("sampling", sampling),
)


def results(submission: Submission) -> Iterator[tuple[str, str, str]]:
    """Run every check: its name, what was found, and what to do, empty where it passed."""
    for name, check in CHECKS:
        try:
            yield name, check(submission), ""
        except NotPassed as error:
            yield name, str(error), error.todo
        except UserError as error:
            yield name, str(error), "mend what the line names"


def make_environment(requirements: Path, folder: Path) -> str:
    """A new virtual environment with the packages of a requirements file; its Python. Raises UserError where pip fails."""
    print(f"installing {requirements} into a fresh environment ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"{requirements} cannot be installed: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")
    return python


def main(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m src.submission check", description="prove that a submission runs")
    parser.add_argument("submission", type=Path, help="the zip, or a folder of the same files")
    parser.add_argument("--num_samples", type=number(int, 2), default=4, help="images sampled at each NFE")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    parser.add_argument("--env", type=Path, metavar="FILE", help="repeat it in a new environment of this requirements file")
    parser.add_argument("--seconds", type=number(float, 1), default=1800, help="the most that one process may take")
    args = parser.parse_args(argv)
    if args.env and not args.env.is_file():
        raise UserError(f"--env {args.env}: no such file")
    failures = []
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        python = make_environment(args.env, Path(folder) / "env") if args.env else sys.executable
        unpack(args.submission, Path(folder) / "submission")
        submission = Submission(Path(folder) / "submission", python, args.device, args.num_samples, args.seconds, {})
        submission.changed = differences(submission.folder)
        restore(submission.folder)
        for name, found, todo in results(submission):
            print(f"{'FAIL' if todo else 'pass'}  {name}: {found}" + (f"\n      -> {todo}" if todo else ""), flush=True)
            failures += [name] if todo else []
    if failures:
        raise UserError(f"{len(failures)} of {len(CHECKS)} checks failed: {', '.join(failures)}")
    print(f"{args.submission}: all {len(CHECKS)} checks passed")
