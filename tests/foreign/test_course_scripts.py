"""The course's own fixed files, all of them, laid over the kit: all else runs as before."""

import json
import shutil

import pytest

from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.submission.sandbox.process import find_bubblewrap
from tests.foreign import CONTRACT, COURSE, lay_out
from tests.helpers import FACES_FLAGS, TINY, draw_little, slow_but
from tests.processes import python

LAID_OVER = ("dataset.py", "sampling.py", "measure_fid.py", "src/utils.py", *CONTRACT)
SMALL = {**TINY, "ch": 32}  # the course's network is made for channels that 32 divides
COMMANDS = {
    "train.py": f"train.py {' '.join(FACES_FLAGS)} --ch 32 --challenge toon --batch_size 4 --num_iterations 2 --run_name r",
    "the course's sampling.py": "sampling.py --ckpt_path results/r/last.ckpt --num_samples 2 --nfe_list 2",
    "pairs": "-m src.datasets.pairs --teacher results/r --count 2 --steps 1 --out pairs --device cpu",
    "averages": "-m src.training.averages results/r",
    "pack": "-m src.submission pack results/r --no_writeup --out mine.zip",
    "a recipe's plan": "-m recipes.step_seconds --challenge simpsons32 --methods edm --batch_size 1 --repeats 1 --json s.json",
    "a recipe": "-m recipes.toy2d --methods ddpm --sets circle --iterations 2 --seeds 1 --jobs 1 --out o --docs d",
    "a benchmark": "-m benchmarks.cost --methods edm --batch_size 1 --repeats 1",
}
OTHERS = "benchmarks.sampling, benchmarks.training, benchmarks.fid, benchmarks.evaluation, benchmarks.intervals, recipes.mini"
GRADE = """
import json, sys
from pathlib import Path
from src.submission.board.grading import run_job
from src.submission.board.job import Job, Settings
options = json.loads(sys.argv[1])
settings = Settings(**options, nfe=(1,), seeds=1, num_images=12, device="cpu", precision="fp32", public_seed=None)
Path("seed").touch(0o600)
Path("seed").write_text("1f")
print(json.dumps(run_job(Job("team", Path("team"), Path("board"), Path("seed"), settings))))
"""


@pytest.fixture(scope="module")
def laid_over(tmp_path_factory):
    """Runs Python in a copy of the kit with the course's files in it."""
    folder = tmp_path_factory.mktemp("kit")
    for name in ("src", "recipes", "benchmarks"):
        shutil.copytree(PROJECT_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    draw_little(folder)
    (folder / "data").mkdir()
    for name in ("data/train_split.txt", "data/val_split.txt", "custom_model.py", "train.py", "requirements.txt"):
        shutil.copy(PROJECT_ROOT / name, folder / name)
    for name in LAID_OVER:
        shutil.copy(COURSE / name, folder / name)

    def run(*arguments: str) -> str:
        return python(folder, *arguments, CHALLENGE_CACHE=folder / "cache")

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def trained(laid_over):
    laid_over(*COMMANDS["train.py"].split())


@pytest.mark.parametrize(
    "name", slow_but(["the course's sampling.py", "pack"], [name for name in COMMANDS if name != "train.py"])
)
def test_commands(name, laid_over, trained):
    laid_over(*COMMANDS[name].split())


def test_what_takes_longer_is_imported(laid_over):
    laid_over("-c", f"import {OTHERS}")


@pytest.mark.slow
def test_the_grader(laid_over, package_file, tmp_path):
    try:
        find_bubblewrap()
    except UserError as error:
        pytest.skip(str(error))
    lay_out(laid_over.folder / "team", "flow_plain", SMALL)
    (laid_over.folder / "team" / "notes.pdf").touch()
    options = {"reference_dir": "reference", "network": SMALL, "inception": str(package_file)}
    laid_over("-c", "from src.challenges import get_challenge; get_challenge('toon').write_reference('', 'reference', 12)")
    result = json.loads(laid_over("-c", GRADE, json.dumps(options)).splitlines()[-1])
    assert result["status"] == "graded" and result["nfe"]["1"]["calls"] == 1, result["reason"]
