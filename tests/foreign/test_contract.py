"""The staff's own base_model.py, network.py and module.py in the place of ours: everything of the kit runs over them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.methods import method_names
from src.submission.sandbox.process import find_bubblewrap
from tests.documents import files_in
from tests.foreign import CONTRACT, COURSE
from tests.helpers import draw_little, read_pngs
from tests.processes import python

SHIPPED = ("mnist", "mnist_teacher", "mnist_classes_teacher", "toon")
# Commands in one process, a line each; the course's network is made for channels that 32 divides.
SCRIPTS = """
import runpy, shlex, sys
for line in sys.argv[1].splitlines():
    sys.argv = shlex.split(line)
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
"""
COURSES = "--challenge toon --ch 32 --ch_mult 1 2 2 2 --attn 3 --num_res_blocks 1"
FEW = "--batch_size 4 --num_iterations 1 --device cpu --precision fp32"
TRAINED = "--num_iterations 8 --lr 1e-2 --lr_warmup 0"  # so that every call changes the image
TEACHERS = ("edm", "ddpm", "rectified_flow")
ALONE = ("custom", "consistency", "shortcut", "meanflow", "flow_map")
STUDENTS = {"cmt": "", "ctm": "", "ld3": "", "gdd": "--discriminator unet", "add": "--discriminator unet"}
METHODS = (*TEACHERS, *ALONE, *STUDENTS, "progressive", "reflow")


def train(method: str, options: str, more: str = "") -> str:
    return f"train.py --method {method} {options} {FEW} {more}"


def every_method() -> list[str]:
    lines = [train(method, COURSES, f"--run_name {method}") for method in (*TEACHERS, *ALONE)]
    lines += [train(method, COURSES, f"--teacher results/edm --run_name {method} {more}") for method, more in STUDENTS.items()]
    lines.append(train("progressive", COURSES, "--teacher results/ddpm --run_name progressive"))
    lines.append("-m src.datasets.pairs --teacher results/rectified_flow --count 4 --steps 1 --out pairs --device cpu")
    lines.append(train("reflow", COURSES, "--pairs pairs --init_from results/rectified_flow --run_name reflow"))
    return lines + [f"sampling.py --ckpt_path results/{name} --num_samples 2 --save_dir samples/{name}" for name in METHODS]


def with_classes() -> list[str]:
    digits = "--challenge mnist --class_conditional --ch 16 --max_per_class 4"
    student = f"{digits} --preconditioning flow --teacher results/digits --discriminator unet --run_name student"
    return [
        train("rectified_flow", digits, "--run_name digits"),
        train("gdd", student),
        "sampling.py --ckpt_path results/digits --nfe_list 2 --num_samples 10 --guidance_scale 2 --save_dir samples/digits",
        "sampling.py --ckpt_path results/student --nfe_list 1 --num_samples 10 --classes 3 7 --save_dir samples/student",
    ]


def handed_in(challenge: str, options: str = "") -> list[str]:
    """A run of this challenge packed, checked and graded."""
    zipped, grading = f"{challenge}/team.zip", "--seeds 1 --num_images 12 --nfe 1 2 --skip_public --inception weights.pt"
    return [
        train("custom", f"--challenge {challenge} {options} --run_name {challenge}", TRAINED),
        f"-m src.submission pack results/{challenge} --no_writeup --out {zipped}",
        f"-m src.submission check {zipped} --no_writeup --device cpu",
        f"-m src.submission grade {challenge} --challenge {challenge} {grading} --out board_{challenge} --device cpu",
    ]


def lay_out_colours(folder: Path) -> None:
    """The challenge of docs/write_a_challenge.md, whose models may learn classes, and data for it."""
    for name, code in files_in("write_a_challenge.md").items():
        (folder / name).write_text(code)
    python(folder, "draw_colours.py")


@pytest.fixture(scope="module")
def staffed(tmp_path_factory):
    """Runs Python in a copy of the kit with the staff's files in it."""
    folder = tmp_path_factory.mktemp("kit")
    for name in ("src", "checkpoints"):
        shutil.copytree(PROJECT_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    draw_little(folder)
    shutil.copytree(PROJECT_ROOT / "data", folder / "data", ignore=lambda *_: {"datasets", "statistics"})
    for path in (*PROJECT_ROOT.glob("*.py"), PROJECT_ROOT / "requirements.txt"):
        shutil.copy(path, folder)
    for name in (*CONTRACT, "src/utils.py"):
        shutil.copy(COURSE / name, folder / name)

    def run(lines: list[str]) -> str:
        return python(folder, "-c", SCRIPTS, "\n".join(lines), CHALLENGE_CACHE=folder / "cache", OMP_NUM_THREADS=1)

    run.folder = folder
    return run


@pytest.mark.slow
def test_every_method_trains_and_samples(staffed):
    staffed(every_method())
    for name in METHODS:
        images = [read_pngs(staffed.folder / f"samples/{name}/nfe={nfe}") for nfe in (1, 2, 4)]
        assert all(batch.shape == (2, 64, 64, 3) for batch in images), name


def test_every_method_is_here():
    assert set(METHODS) == set(method_names())


@pytest.mark.slow
def test_digits_with_classes(staffed):
    staffed(with_classes())
    assert len(read_pngs(staffed.folder / "samples/student/nfe=1")) == 10


@pytest.mark.slow
def test_shipped_checkpoints_make_the_same_images(staffed, tmp_path):
    lines = [
        f"sampling.py --ckpt_path checkpoints/{name}/best_model.pt --num_samples 2 --nfe_list 2 --device cpu --precision fp32"
        for name in SHIPPED
    ]
    staffed([f"{line} --save_dir samples/{name}" for line, name in zip(lines, SHIPPED, strict=True)])
    python(
        PROJECT_ROOT,
        *("-c", SCRIPTS, "\n".join(f"{line} --save_dir {tmp_path / name}" for line, name in zip(lines, SHIPPED, strict=True))),
        OMP_NUM_THREADS=1,
    )
    for name in SHIPPED:
        theirs, ours = (read_pngs(folder / name / "nfe=2") for folder in (staffed.folder / "samples", tmp_path))
        assert np.abs(theirs - ours).max() <= 1, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("challenge", "options"),
    [("toon32", ""), ("colours", "--class_conditional")],
    ids=["toon32", "colours"],
)
def test_a_team_is_packed_checked_and_graded(staffed, package_file, challenge, options):
    try:
        find_bubblewrap()
    except UserError as error:
        pytest.skip(str(error))
    if challenge == "colours":
        lay_out_colours(staffed.folder)
    shutil.copy(package_file, staffed.folder / "weights.pt")
    (staffed.folder / challenge).mkdir()
    written = staffed(handed_in(challenge, options))
    assert "1 graded, 0 failed" in written and "FAIL" not in written
