"""The user's whole way by the commands that README prints, in their order, with small numbers: each step finds what the one
before it has left."""

import dataclasses
import importlib
import json
import re
import shlex
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.challenges import CHALLENGES, get_challenge
from src.challenges import toon as toon_file
from src.challenges.mnist import data as mnist
from src.common.files import PROJECT_ROOT
from src.page import history
from src.runs.folder import Run
from src.runs.scores import last_scores, samples_of
from tests.helpers import call, random_images
from tests.processes import forked_python

PLACE = re.compile(r"\[\[.*?\]\]", re.DOTALL)
COUNT = 4  # images of everything
FEW = 1  # network calls that the staff grade
SMALL = {  # what is added to README's commands
    "train": f"--num_iterations 4 --save_interval 1 --log_interval 1 --lr_warmup 0 --batch_size {COUNT} --device cpu",
    "sampling": f"--num_samples {COUNT} --device cpu",
    "measure_fid": "--device cpu",
    "check": "--num_samples 2 --device cpu",
    "grade": f"--num_images {COUNT} --seeds 1 --nfe {FEW} --device cpu",
}


def readme_commands(**placeholders: str) -> list[list[str]]:
    """The words of every command of README's code blocks from `python train.py` on, and of the list of runs, in order.

    placeholders: what stands in the place of <time> and RUN. "# and nfe=2, nfe=4" behind a command repeats it.
    """
    text = (PROJECT_ROOT / "README.md").read_text()
    blocks = [block for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) if "python " in block]
    lines = [line for block in blocks for line in block.splitlines()]
    lines.append(re.search(r"`(python -m src\.runs [^`]*)`", text)[1])
    found = []
    for line in lines:
        command, _, comment = line.partition("#")
        words = shlex.split(command.replace("<time>", placeholders["run"]).replace("RUN", placeholders["run"]))[1:]
        repeated = [0, *map(int, re.findall(r"(?:and |, )nfe=(\d+)", comment))] if words[0] == "measure_fid.py" else [0]
        for nfe in repeated:
            found.append([re.sub(r"nfe=\d+", f"nfe={nfe}", word) if nfe else word for word in words])
    return found


def name_of(words: list[str]) -> str:
    """train, sampling, ... of a command: what it is called in SMALL."""
    return words[2] if words[1] == "src.submission" else words[words[0] == "-m"].removesuffix(".py").removeprefix("src.")


class Walk:
    """A user's session: commands run as they are printed, in one folder."""

    def __init__(self, monkeypatch, capsys, flags: dict[str, str]):
        self.monkeypatch, self.capsys, self.flags = monkeypatch, capsys, flags

    def __call__(self, words: list[str], code: int = 0) -> str:
        """What a command says on both streams."""
        is_module = words[0] == "-m"
        module, rest = (words[1], words[2:]) if is_module else (words[0].removesuffix(".py"), words[1:])
        if is_module and (PROJECT_ROOT / Path(*module.split("."))).is_dir():
            module += ".__main__"
        added = shlex.split(f"{SMALL.get(name_of(words), '')} {self.flags.get(name_of(words), '')}")
        with self.monkeypatch.context() as patch:
            if name_of(words) == "grade":  # it starts a process for each team
                patch.setattr(sys, "executable", forked_python())
            got = call(importlib.import_module(module), self.monkeypatch, *rest, *added)
        told = self.capsys.readouterr()
        assert got == code, f"{' '.join(words)}: exit code {got}: {told.err or told.out}"
        return told.out + told.err


@pytest.fixture
def place(tmp_path, monkeypatch, package_file):
    """An empty folder to work in, with a cache and few toon faces."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))
    for size in toon_file.SPLITS:
        monkeypatch.setitem(toon_file.SPLITS, size, {"train": (12, 1), "val": (6, 2)})
    return tmp_path


def animals(monkeypatch) -> str:
    """A folder of images by class; flags of train.py and measure_fid.py."""
    for split, count in {"train": 4, "val": 3}.items():
        for name in ("cat", "dog"):
            folder = Path("animals", split, name)
            folder.mkdir(parents=True)
            for number, pixels in enumerate(random_images(count, seed=len(name), shape=(16, 16, 3))):
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return "--data_root animals"


def digits(monkeypatch) -> str:
    """Few digits, and as few that are handed in."""
    images, labels = random_images(12, shape=(1, 28, 28)), np.arange(12) % 10 + 1
    monkeypatch.setattr(mnist, "load_digits", lambda *_: (images, labels))
    monkeypatch.setitem(CHALLENGES._items, "mnist", dataclasses.replace(get_challenge("mnist"), num_samples=COUNT))
    return ""


def fill_in(text: str) -> str:
    return PLACE.sub("Code: a name and a text", text)


def test_the_way_from_training_to_the_board(place, monkeypatch, capsys):
    """README's own order, on a challenge whose fixed network is small."""
    pytest.importorskip("reportlab", reason="pip install -r requirements-writeup.txt")
    challenge = get_challenge("toon32")
    wanted = dict.fromkeys(challenge.nfe)
    named = ("train", "sampling", "grade")  # the others see it
    flags = {**dict.fromkeys(named, f"--challenge {challenge.name}"), "measure_fid": "--modes clean"}
    walk = Walk(monkeypatch, capsys, flags)
    commands = iter(readme_commands(run="TIME"))

    def next_command(name: str) -> list[str]:
        words = next(commands)
        assert name_of(words) == name, words
        return words

    told = walk(next_command("train"))
    (run_dir,) = Path("results").iterdir()
    assert f"checkpoint: {run_dir}/last.ckpt" in told
    commands = iter(readme_commands(run=run_dir.name))
    next_command("train")
    run = Run(run_dir)

    walk(next_command("sampling"))
    for nfe in wanted:
        told = walk(next_command("measure_fid"))
        assert f"added to {run_dir}/metrics.jsonl" in told.splitlines()
        wanted[nfe] = json.loads(Path("fid_results.json").read_text())["fid_score"]
    assert last_scores(run) == wanted and samples_of(run).keys() == wanted.keys()

    words = next_command("writeup")
    told = walk(words, code=2)
    problems = PLACE.sub("", told.splitlines()[-1].partition("to mend: ")[2]).split("; ")
    assert set(problems) == {"not filled in: "}, told
    source = run_dir / "writeup.md"
    source.write_text(fill_in(source.read_text(encoding="utf-8")), encoding="utf-8")
    assert "nothing is missing" in walk(words)

    told = walk(next_command("pack"))
    assert "note: left out" not in told
    with zipfile.ZipFile("submission.zip") as archive:
        assert archive.read("results/metrics.jsonl") == (run_dir / "metrics.jsonl").read_bytes()
        inside = "".join(archive.read(name).decode() for name in archive.namelist() if name.endswith((".json", ".jsonl")))
    assert str(place) not in inside, "a path of this machine is handed in"

    told = walk(next_command("check"))
    assert "FAIL" not in told and "all 9 checks passed" in told

    Path("submissions").mkdir()
    shutil.copy("submission.zip", "submissions/team.zip")
    while name_of(words := next(commands)) != "grade":
        pass
    assert "1 graded, 0 failed" in walk(words)
    (entry,) = [json.loads(path.read_text()) for path in Path("board/teams").glob("*/result.json")]
    board = json.loads(Path("board/leaderboard.json").read_text())["entries"]
    assert [each["nfe"] for each in board] == [FEW]
    assert board[0]["fid_public"] == entry["nfe"][str(FEW)]["fid_public"]
    assert board[0]["fid_public"] == pytest.approx(wanted[FEW], rel=0.2), "the course's own script draws other noise"

    (row,) = [line for line in walk(next(commands)).splitlines() if run_dir.name in line]
    assert row.endswith("fid_clean " + ", ".join(f"{nfe}: {score:.2f}" for nfe, score in wanted.items()))
    shown = history.scores(run, challenge.metrics)
    assert {(line["NFE"], line["score"]) for line in shown if line["of"] == "FID clean-fid"} == {
        (nfe, f"{score:.2f}") for nfe, score in wanted.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make", "network"),
    [
        ("labelled", animals, "--ch 8 --ch_mult 1 2 --attn 1 --num_res_blocks 1"),
        ("mnist", digits, "--ch 8"),
    ],
)
def test_the_way_with_classes(name, make, network, place, monkeypatch, capsys):
    """README's commands as far as these challenges have them; measure_fid.py is not told which challenge it is."""
    pytest.importorskip("reportlab", reason="pip install -r requirements-writeup.txt")
    data, challenge = make(monkeypatch), get_challenge(name)
    flags = {"train": f"--challenge {name} {data} --class_conditional {network}", "measure_fid": data}
    walk = Walk(monkeypatch, capsys, flags)
    wanted = dict.fromkeys(challenge.nfe)
    walk(readme_commands(run="")[0])
    (run_dir,) = Path("results").iterdir()
    commands = {name_of(words): words for words in reversed(readme_commands(run=run_dir.name))}
    assert "left as they were" not in walk(commands["sampling"])
    for nfe in wanted:
        told = walk([word.replace("nfe=1", f"nfe={nfe}") for word in commands["measure_fid"]])
        assert f"added to {run_dir}/metrics.jsonl" in told.splitlines()
        wanted[nfe] = json.loads(Path("fid_results.json").read_text())["fid_score"]

    told = walk(commands["writeup"], code=2)
    assert set(PLACE.sub("", told.splitlines()[-1].partition("to mend: ")[2]).split("; ")) == {"not filled in: "}, told
    (row,) = [line for line in walk(commands["runs"]).splitlines() if run_dir.name in line]
    assert row.endswith("fid_pytorch " + ", ".join(f"{nfe}: {score:.2f}" for nfe, score in wanted.items()))
    run = Run(run_dir)
    assert last_scores(run) == wanted and {line["NFE"] for line in history.scores(run, challenge.metrics)} == set(wanted)
    if challenge.hands_in_images:
        told = walk(["-m", "src.submission", "check", "samples/nfe=4", "--challenge", name])
        assert f"{COUNT} images as challenge {name} takes them" in told
