"""The notebooks of docs/: they run from top to bottom, with small settings, and what is committed of them is clean."""

import json
import re
import zipfile

import numpy as np
import pytest

from recipes.notebooks import FOLDER, execute
from src.challenges.simpsons import split_ids
from src.datasets.images import cached_array, content_hash
from src.runs.folder import Run
from src.runs.scores import last_scores, samples_of
from tests import test_documents

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SMALL = {
    "ddim_2d": 'iterations, count, out = 20, 64, "{out}"',
    "challenge": """
challenge, faces, images, results = "simpsons32", "{out}/faces.zip", 4, "{out}"
method = "--method rectified_flow"
training = "--num_iterations 3 --batch_size 4 --lr 0.01 --lr_warmup 0 --ema_half_lives 0 --log_interval 1 --device cpu"
""",
}
LAST_WORDS = {"ddim_2d": "| `meanflow` |", "challenge": " checks passed"}
FAULT = re.compile(r"error:|Traceback|No module named|No such file")
MACHINE = re.compile(r"(?<![\w.])/(home|root|tmp|var|mnt|work|workspace|Users)/|[A-Z]:\\")
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def printed(cells) -> str:
    """All text that the cells have put out."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    texts = [output.get("text") or output.get("data", {}).get("text/markdown", "") for output in outputs]
    return "\n".join("".join(text) for text in texts)


def stand_in_faces(out) -> None:
    """A zip with the names of all faces, and in the cache noise as what was decoded of it."""
    with zipfile.ZipFile(out / "faces.zip", "w") as archive:
        for name in (*split_ids("train"), *split_ids("val")):
            archive.writestr(f"{name}.png", b"")
    noise = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    for split in ("train", "val"):
        names = [f"{name}.png" for name in split_ids(split)]
        cached_array([32, content_hash(out / "faces.zip", names)], lambda: noise)


def test_the_folder_is_known():
    assert {path.stem for path in NOTEBOOKS} == set(SMALL)


@pytest.mark.slow
@each
def test_it_runs(path, tmp_path, monkeypatch, request, python_forked):
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package, reason="pip install nbclient ipykernel")
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))
    if path.stem == "challenge":
        request.getfixturevalue("package_file")
        stand_in_faces(tmp_path)
    before = path.read_bytes()
    text = printed(execute(path, SMALL[path.stem].format(out=tmp_path)).cells)
    assert LAST_WORDS[path.stem] in text, text
    assert not FAULT.search(text), text
    assert path.read_bytes() == before
    if path.stem == "challenge":
        check_the_way(tmp_path, text)


def check_the_way(out, text: str) -> None:
    """Each step has seen what the one before has left: the FIDs are in the run, in the list of runs and in the zip."""
    run = Run(out / "notebook")
    scores = last_scores(run)
    assert list(scores) == list(samples_of(run)) == [1, 2, 4]
    assert text.count(f"added to {run.folder}/metrics.jsonl") == 3
    assert "fid_clean " + ", ".join(f"{nfe}: {score:.2f}" for nfe, score in scores.items()) in text
    with zipfile.ZipFile(run.folder / "submission.zip") as archive:
        assert archive.read("results/metrics.jsonl") == (run.folder / "metrics.jsonl").read_bytes()


def test_its_commands_are_understood(monkeypatch, capsys):
    """As the documents' are: modules and flags are there."""
    cells = [cell for path in NOTEBOOKS for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    found = {match.strip() for cell in cells for match in test_documents.COMMAND.findall("".join(cell["source"]))}
    assert len(found) > 5
    for command in found:
        test_documents.test_a_printed_command_is_understood(command, monkeypatch, capsys)


@each
def test_what_is_committed(path):
    """Outputs of one run from top to bottom, with pictures, without an error or a place on somebody's machine."""
    assert path.stat().st_size < 1_000_000
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    text = printed(code)
    assert LAST_WORDS[path.stem] in text and not FAULT.search(text)
    for place in (text, *("".join(cell["source"]) for cell in cells)):
        assert not MACHINE.search(place), MACHINE.search(place)
