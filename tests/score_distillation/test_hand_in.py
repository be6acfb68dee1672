"""The hand-in of the course: packed from what evaluate leaves, and what check says of a faulty one."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from src.common.distilled import LOSS_TYPES
from src.submission import __main__ as submission
from src.submission.handin.score_distillation import EXAMPLE
from tests.helpers import call, fails


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """Ten images of each loss with scores, and a report."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for loss in LOSS_TYPES:
        folder = tmp_path / "outputs" / loss
        (folder / "a_0").mkdir(parents=True)
        scores = {}
        for number in range(10):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"a_{number}.png")
            scores[f"a_{number}.png"] = 0.25 + 0.01 * number
        (folder / "eval.json").write_text(json.dumps({**scores, "score": 0.295}))
        (folder / "run_config.json").write_text("{}")
        (folder / "a_0" / "step_00025.png").write_bytes(b"")
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4")
    return tmp_path / "outputs"


PACK = ["pack", "outputs", "--challenge", "score_distillation", "--student_id", "113550000", "--report", "report.pdf"]
CHECK = ["check", "113550000_lab3.zip", "--challenge", "score_distillation"]


def test_what_is_handed_in(monkeypatch, capsys):
    assert call(submission, monkeypatch, *PACK) == 0
    out = capsys.readouterr().out
    assert "python -m src.submission check 113550000_lab3.zip --challenge score_distillation" in out
    assert "note: guidance/sd.py is this kit's example" in out
    with zipfile.ZipFile("113550000_lab3.zip") as archive:
        names = archive.namelist()
        assert archive.read("guidance/sd.py") == EXAMPLE.read_bytes()
    expected = [f"outputs/{loss}/{name}" for loss in LOSS_TYPES for name in (*(f"a_{k}.png" for k in range(10)), "eval.json")]
    assert set(names) == {
        "guidance/sd.py",
        "report.pdf",
        *expected,
        *(f"outputs/{loss}/run_config.json" for loss in LOSS_TYPES),
    }
    assert call(submission, monkeypatch, *CHECK) == 0
    out = capsys.readouterr().out
    assert out.count("pass  ") == 5 and "113550000_lab3.zip: all 5 checks passed" in out
    assert "sdi 0.2950 (full marks: 0.28, reached" in out


def test_scores_below_a_mark_are_a_note(outputs, monkeypatch, capsys):
    (outputs / "sdi" / "eval.json").write_text(json.dumps({**{f"a_{k}.png": 0.25 for k in range(10)}, "score": 0.25}))
    assert call(submission, monkeypatch, *PACK) == 0 and call(submission, monkeypatch, *CHECK) == 0
    assert "note  scores: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "check", "words"),
    [
        (lambda text: text.replace("def invert_noise", "def invert"), "guidance", "absent: invert_noise"),
        (lambda text: text.replace("text_embeddings, guidance_scale=7.5, l", "scale, l"), "guidance", "takes"),
        (lambda text: "from src.score_distillation import sds\n" + text, "guidance", "imports src.score_distillation"),
        (lambda text: "import threestudio\n" + text, "guidance", "imports threestudio"),
        (lambda text: text + "\nclass", "guidance", "not a Python file"),
    ],
)
def test_another_class(spoil, check, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(spoil(EXAMPLE.read_text()))
    assert call(submission, monkeypatch, *PACK, "--sd", "mine.py") == 0
    capsys.readouterr()
    assert call(submission, monkeypatch, *CHECK) == 2
    printed = capsys.readouterr()
    assert f"FAIL  {check}: " in printed.out and words in printed.out
    assert printed.err == f"error: 1 of 5 checks failed: {check}\n"


def rewrite(file, change):
    scores = json.loads(file.read_text())
    change(scores)
    file.write_text(json.dumps(scores))


@pytest.mark.parametrize(
    ("spoil", "check", "words"),
    [
        (lambda folder: (folder / "vsd" / "eval.json").unlink(), "images", "no outputs/vsd/eval.json"),
        (lambda folder: rewrite(folder / "vsd" / "eval.json", lambda scores: scores.pop("a_3.png")), "images", "9 images"),
        (lambda folder: (folder / "sdi" / "a_3.png").write_bytes(b"no"), "images", "not a readable image"),
        (
            lambda folder: rewrite(folder / "sds" / "eval.json", lambda scores: scores.update(score=0.4)),
            "scores",
            "score is 0.4",
        ),
    ],
)
def test_faulty_outputs(spoil, check, words, outputs, monkeypatch, capsys):
    spoil(outputs)
    assert call(submission, monkeypatch, *PACK) == 0
    capsys.readouterr()
    assert call(submission, monkeypatch, *CHECK) == 2
    out = capsys.readouterr().out
    assert any(line.startswith(f"FAIL  {check}: ") and words in line for line in out.splitlines()), out


def test_what_cannot_be_packed(outputs, monkeypatch, capsys):
    line = fails(submission, monkeypatch, capsys, *PACK[:-1], "nowhere.pdf")
    assert "--report nowhere.pdf: no such file" in line
    line = fails(submission, monkeypatch, capsys, *PACK[:-3], "a b", "--report", "report.pdf")
    assert "--student_id a b: expected letters and digits" in line
    (outputs / "sds" / "a_4.png").unlink()
    assert "has a score of a_4.png, which is absent" in fails(submission, monkeypatch, capsys, *PACK)
    for loss in LOSS_TYPES:
        (outputs / loss / "eval.json").unlink()
    assert "python -m src.score_distillation.evaluate makes them" in fails(submission, monkeypatch, capsys, *PACK)
