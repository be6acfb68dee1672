"""A challenge that is one file, the one of docs/write_a_challenge.md: every command knows it, and nothing else is changed."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.submission.sandbox.process import find_bubblewrap
from tests.documents import files_in, steps_in
from tests.processes import python

COUNTS = {"train": 10, "val": 6}  # images of each colour


@pytest.fixture(scope="module")
def kit(tmp_path_factory, package_file):
    """A copy of the kit with the document's challenge in it and its images; runs commands there."""
    folder = tmp_path_factory.mktemp("kit")
    shutil.copytree(PROJECT_ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir()
    scripts = ("custom_model.py", "train.py", "dataset.py", "sampling.py", "measure_fid.py", "requirements.txt")
    for name in ("data/train_split.txt", "data/val_split.txt", *scripts):
        shutil.copy(PROJECT_ROOT / name, folder / name)
    code = files_in("write_a_challenge.md")
    assert list(code) == ["src/challenges/colours.py", "draw_colours.py"]
    assert code["src/challenges/colours.py"].count("\n") < 100
    for name, content in code.items():
        (folder / name).write_text(content)

    def run(*arguments) -> str:
        return python(folder, *arguments, CHALLENGE_CACHE=folder / "cache", CHALLENGE_PRECISION="fp32")

    run.folder, run.inception = folder, package_file
    return run


def walk(kit, beginning: str, *smaller) -> str:
    """What the document's command of this beginning writes, with these flags that make it smaller."""
    (step,) = [step for step in steps_in("write_a_challenge.md") if step.startswith(beginning)]
    return kit(*step.split(), *smaller)


def test_all_commands_of_the_document_are_walked():
    text = Path(__file__).read_text()
    for step in steps_in("write_a_challenge.md"):
        assert any(step.startswith(beginning) for beginning in re.findall(r'walk\(kit, "([^"]+)"', text)), step


@pytest.fixture(scope="module")
def trained(kit):
    walk(kit, "draw_colours.py")
    walk(kit, "train.py", "--device", "cpu", "--num_iterations", 200, "--dev_images", 4)
    return kit.folder / "results" / "colours"


@pytest.mark.slow
def test_it_trains(trained):
    training = json.loads((trained / "training_config.json").read_text())
    assert (training["challenge"], training["batch_size"], training["lr"]) == ("colours", 4, 1e-3)
    assert training["num_training_images"] == 2 * COUNTS["train"] - 4 and training["image_shape"] == [3, 16, 16]
    model = json.loads((trained / "model_config.json").read_text())
    assert (model["challenge"], model["ch"], model["ch_mult"]) == ("colours", 8, [1, 2])
    scores = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()][-1]
    assert scores["fid_nfe1"] > 0 and scores["fid_nfe2"] > 0 and "fid_nfe4" not in scores
    assert Image.open(trained / "previews" / "step_0000200.png").height == 2 * 2 * 16


@pytest.mark.slow
def test_it_is_sampled_and_measured(kit, trained):
    walk(kit, "sampling.py --ckpt_path results/colours/last.ckpt --save_dir samples", "--device", "cpu")
    names = ["classes_nfe=1.png", "classes_nfe=2.png", "labels.csv", "nfe=1", "nfe=2", "sampling.json"]
    assert sorted(path.name for path in (kit.folder / "samples").iterdir()) == names
    files = sorted((kit.folder / "samples" / "nfe=2").iterdir())
    assert [file.name for file in files] == [f"{index:04d}.png" for index in range(12)]
    assert Image.open(files[0]).size == (16, 16)
    walk(kit, "sampling.py --ckpt_path results/colours/last.ckpt --save_dir reds --classes red", "--device", "cpu")
    assert len({line.split(",")[1] for line in (kit.folder / "reds" / "labels.csv").read_text().splitlines()[1:]}) == 1
    said = walk(kit, "measure_fid.py", "--device", "cpu", "--inception", kit.inception, "--modes", "clean")
    result = json.loads((kit.folder / "fid_results.json").read_text())
    assert result["reference_dir"] == "./data/colours_16x16/val" and result["num_reference"] == 2 * COUNTS["val"]
    assert f"FID clean-fid, 12 vs 12: {result['fid_score']:.3f}" in said
    assert "NFE 1: fid_clean under 100 (this course): " in said
    said = kit("-m", "src.evaluation", "samples/nfe=1", "--challenge", "colours", "--device", "cpu", "--halves", 0)
    assert "clean FID" in said


@pytest.mark.slow
def test_it_is_packed_checked_and_graded(kit, trained):
    try:
        find_bubblewrap()
    except UserError as error:
        pytest.skip(str(error))
    said = walk(kit, "-m src.submission pack")
    assert "src/challenges/colours.py" in said
    said = walk(kit, "-m src.submission check", "--device", "cpu")
    assert "NFE 1: 1 network call, " in said and "NFE 2: 2 network calls, " in said and "checks passed" in said
    smaller = ["--device", "cpu", "--seeds", 1, "--skip_public", "--inception", kit.inception]
    said = walk(kit, "-m src.submission grade", *smaller)
    assert "1 graded, 0 failed" in said, said
    board = json.loads((kit.folder / "board" / "leaderboard.json").read_text())
    assert {(entry["nfe"], entry["calls"], entry["num_images"]) for entry in board["entries"]} == {(1, 1.0, 12), (2, 2.0, 12)}
    assert board["references"] == [{"name": "mean colour", "note": "no model at all", "fid": {"1": 250.0, "2": 250.0}}]
