"""The script measure_fid.py: what it writes, what it refuses, what it computes only once."""

import json
import subprocess
import sys

import numpy as np
import pytest

import measure_fid
from src.challenges import get_challenge
from src.challenges.shared.images import ImageChallenge
from src.evaluation.inception import Inception
from tests.conftest import PROJECT_ROOT
from tests.evaluation.conftest import make_images, write_images
from tests.processes import forked_python


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Generated (3) and reference (4) images as gen/ and ref/ of the working directory."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "gen", make_images(1, 3))
    write_images(tmp_path / "ref", make_images(2, 4))
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the script in this process: (exit code, stdout, stderr)."""

    def run_once(*arguments):
        monkeypatch.setattr(sys, "argv", ["measure_fid.py", *map(str, arguments)])
        code = 0
        try:
            measure_fid.run_script(measure_fid.main)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run_once


def test_flags_and_defaults_are_the_courses():
    args = measure_fid.make_parser().parse_args(["--generated_dir", "x"])
    course = {
        "generated_dir": "x",
        "reference_dir": "./data/simpsons_64x64/val",
        "data_root": "./data/datasets/kostastokis/simpsons-faces/versions/1/cropped",
        "device": "cuda",
        "batch_size": 64,
        "output_path": "./fid_results.json",
    }
    assert {name: getattr(args, name) for name in course} == course


def test_result_and_second_run_spare_the_reference(folders, run, monkeypatch, package_file):
    seen = []
    forward = Inception.forward

    def counting(self, x):
        seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Inception, "forward", counting)
    arguments = ("--generated_dir", "gen", "--reference_dir", "ref", "--device", "cpu", "--inception", package_file)
    code, out, _ = run(*arguments)
    assert code == 0
    assert sum(seen) == 2 * (3 + 4)
    result = json.loads((folders / "fid_results.json").read_text())
    assert list(result)[:3] == ["fid_score", "generated_dir", "reference_dir"]
    assert (result["generated_dir"], result["reference_dir"]) == ("gen", "ref")
    assert (result["num_generated"], result["num_reference"]) == (3, 4)
    assert result["fid_score"] == result["fid_clean"] != result["fid_pytorch"]
    assert len(result["inception_sha256"]) == 64 and result["inception_source"] == str(package_file)
    assert f"FID clean-fid, 3 vs 4: {result['fid_clean']:.3f}\n" in out
    assert f"FID pytorch-fid, 3 vs 4: {result['fid_pytorch']:.3f}\n" in out
    assert "warning: 3 generated and 4 reference images" in out

    seen.clear()
    code, _, _ = run(*arguments, "--modes", "clean", "--output_path", "again/fid.json")
    assert code == 0
    assert sum(seen) == 3
    again = json.loads((folders / "again/fid.json").read_text())
    assert again["fid_score"] == pytest.approx(result["fid_score"], abs=1e-6)
    assert "fid_pytorch" not in again


def test_absent_reference_is_made_from_the_split(folders, run, monkeypatch):
    made = []

    def write_reference(challenge, root, folder):
        made.append((challenge.name, root, str(folder)))
        write_images(folder, make_images(2, 4, (32, 32)))

    monkeypatch.setattr(ImageChallenge, "write_reference", write_reference)
    monkeypatch.setattr(ImageChallenge, "load_feature_network", lambda *arguments: Inception())
    monkeypatch.setattr(ImageChallenge, "measure", lambda *arguments, **words: {"fid_clean": 1.5})
    code, out, _ = run("--generated_dir", "gen", "--data", "toon", "--data_root", "somewhere")
    assert code == 0
    assert made == [("toon", "somewhere", "data/toon_64x64/val")]
    assert "FID clean-fid, 3 vs 4: 1.500" in out
    assert "generated images are 64x64, reference images 32x32" in out
    assert json.loads((folders / "fid_results.json").read_text())["reference_dir"] == "./data/toon_64x64/val"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: --generated_dir"),
        (["--generated_dir", "absent"], "no folder absent"),
        (["--generated_dir", "."], "holds 0 images"),
        (["--generated_dir", "gen", "--reference_dir", "empty"], "empty holds 0 images"),
        (["--generated_dir", "gen", "--modes", "pytorch"], "--modes must hold clean"),
        (["--generated_dir", "gen", "--modes", "legacy"], "invalid choice: 'legacy'"),
        (["--generated_dir", "gen", "--batch_size", "0"], "--batch_size: expected a whole number of at least 1, got '0'"),
        (["--generated_dir", "gen", "--batch_size", "many"], "got 'many'"),
        (["--generated_dir", "gen", "--output_path", "ref"], "cannot write the file ref: a folder stands there"),
        (["--generated_dir", "gen", "--inception", "absent.pt"], "--inception absent.pt: no such file"),
        (["--generated_dir", "gen", "--device", "abacus"], "unknown device 'abacus'"),
        (["--gen", "gen"], "required: --generated_dir"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(folders, run, monkeypatch, arguments, words):
    (folders / "empty").mkdir()
    monkeypatch.setattr(ImageChallenge, "load_feature_network", lambda *given: pytest.fail("the weights were loaded first"))
    code, _, err = run(*arguments)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err
    assert not (folders / "fid_results.json").exists()


def test_foreign_weights_end_in_one_line_and_leave_nothing(folders, run):
    (folders / "foreign.pt").write_text("no weights")
    code, _, err = run("--generated_dir", "gen", "--reference_dir", "ref", "--inception", "foreign.pt")
    assert code == 2 and err.count("\n") == 1 and "foreign.pt" in err
    assert not (folders / "fid_results.json").exists()


def test_as_a_command(folders):
    script = [forked_python(), str(PROJECT_ROOT / "measure_fid.py")]
    bad = subprocess.run([*script, "--generated_dir", "absent"], capture_output=True, text=True, cwd=folders)
    assert (bad.returncode, bad.stderr) == (2, "error: no folder absent\n")
    assert not list(folders.glob("*.json"))


def test_same_images_are_at_distance_zero(inception):
    images = make_images(1, 3)
    scores = get_challenge().measure(images, images, inception, metrics=["fid_clean"])
    assert scores == {"fid_clean": pytest.approx(0, abs=1e-4)}
    assert np.isfinite(scores["fid_clean"])
