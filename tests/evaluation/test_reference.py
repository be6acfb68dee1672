"""Which data a reference folder is of: noted when it is made, and held against --data_root when it is there."""

import json

import numpy as np
import pytest
from PIL import Image

import measure_fid
from src.challenges import get_challenge, simpsons
from src.challenges.shared.images import ImageChallenge
from src.evaluation import __main__ as suite
from src.evaluation.inception import Inception
from tests.evaluation.conftest import make_images, write_images
from tests.helpers import call

VAL = "data/simpsons_64x64/val"


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """Two data sets one/ and two/ of three validation images each, of the same names; and generated images in gen/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simpsons, "split_ids", lambda split: ["0", "1", "2"])
    monkeypatch.setattr(ImageChallenge, "load_feature_network", lambda *arguments: Inception())
    monkeypatch.setattr(ImageChallenge, "measure", lambda self, samples, reference, *_, **__: {"fid_clean": reference.mean()})
    for seed, name in ((3, "one"), (4, "two")):
        for number, image in enumerate(make_images(seed, 3)):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / name / f"{number}.png")
    write_images(tmp_path / "gen", make_images(1, 3))
    return tmp_path


@pytest.fixture
def measure(roots, monkeypatch, capsys):
    def run(*flags):
        code = call(measure_fid, monkeypatch, "--generated_dir", "gen", "--device", "cpu", *flags)
        return code, *capsys.readouterr()

    return run


def test_a_folder_that_was_made_says_of_what(roots, measure):
    assert measure("--data_root", "one")[0] == 0
    assert sorted(path.name for path in (roots / VAL).iterdir()) == ["0000.png", "0001.png", "0002.png"]
    noted = json.loads((roots / f"{VAL}.json").read_text())
    assert (noted["data_root"], noted["num_images"]) == ("one", 3) and len(noted["sha256"]) == 64

    code, out, _ = measure("--data_root", "one")
    assert code == 0 and "made from" not in out
    (roots / "one").rename(roots / "moved")
    assert measure("--data_root", "moved")[0] == 0, "the same images elsewhere"
    code, out, _ = measure()
    assert code == 0 and f"the reference images {VAL} were made from one\n" in out


def test_other_data_than_the_folder_was_made_of_are_refused(roots, measure):
    measure("--data_root", "one")
    code, _, err = measure("--data_root", "two")
    (line,) = (line for line in err.splitlines() if line and "decoding" not in line)
    todo = f"remove {VAL} to have it made from two, or name another --reference_dir"
    assert code == 2 and line == f"error: {VAL} was made from one, whose images are not those of --data_root two: {todo}"
    code, _, err = measure("--data_root", "/does/not/exist")
    assert code == 2 and err.startswith("error: no data at /does/not/exist") and err.count("\n") == 1


def test_a_folder_that_nobody_knows_of_is_warned_of(roots, measure):
    write_images(roots / VAL, make_images(3, 3))
    code, out, _ = measure("--data_root", "one")
    assert code == 0 and "warning" not in out and measure()[0] == 0
    code, out, _ = measure("--data_root", "two")
    assert code == 0 and f"warning: {VAL} holds other images than the validation images of --data_root two: remove" in out
    changed = {"data_root": "one", "num_images": 3, "sha256": "0" * 64}  # of a folder that was changed since
    (roots / f"{VAL}.json").write_text(json.dumps(changed))
    assert "was made from" not in measure("--data_root", "two")[2]


def test_flags_that_are_not_used_are_said(roots, measure):
    write_images(roots / "ref", make_images(2, 4))
    code, out, _ = measure("--reference_dir", "ref", "--data_root", "/does/not/exist")
    assert code == 0 and "not used: --data_root, as --reference_dir ref is measured against\n" in out
    code, out, _ = measure("--reference_dir", "new", "--data_root", "one")
    assert code == 0 and "not used" not in out and (roots / "new.json").is_file()
    np.savez(roots / "s.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    flags = ("--challenge", "mnist", "--stats", "s.npz", "--reference_dir", "ref", "--data_root", "one")
    told = measure_fid.unused_flags(measure_fid.make_parser(get_challenge("mnist")).parse_args(flags), "", "./data/mnist")
    assert told == "not used: --reference_dir and --data_root, as --stats s.npz is measured against"
    code, _, err = measure("--challenge", "toy2d", "--reference_dir", "ref", "--generated_dir", ".")
    assert code == 2 and err.count("\n") == 1


def test_the_suite_looks_too(roots, monkeypatch, capsys):
    folder = write_images(roots / "many", make_images(2, 12))
    get_challenge().write_reference("one", VAL)
    assert call(suite, monkeypatch, folder, "--data_root", "two", "--device", "cpu") == 2
    assert f"error: {VAL} was made from one" in capsys.readouterr().err
    args = suite.make_parser().parse_args(["many", "--reference_dir", "many", "--data_root", "two", "--nearest", "pixels"])
    assert suite.unused_flags(args, VAL, "one") and not suite.unused_flags(args, VAL, "one", needs_root=True)
