"""python -m src.evaluation: what it writes, draws, prints and refuses. Features stand in: colours of the images."""

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from src.challenges import get_challenge
from src.challenges.shared.images import ImageChallenge
from src.evaluation import __main__ as suite
from src.evaluation import features, second_opinion
from src.evaluation.fid import frechet_distance
from src.evaluation.inception import Inception
from src.evaluation.kid import kid
from src.evaluation.prdc import prdc
from src.evaluation.tables_and_plots import comparison, short_names
from src.runs.folder import nfe_of
from tests.conftest import PROJECT_ROOT
from tests.evaluation.conftest import make_images, write_images
from tests.evaluation.test_clip import open_clip  # noqa: F401 - a fixture
from tests.helpers import call, fails
from tests.processes import forked_python


def colours(images):
    """Features by hand: colours of four quarters of the image, (N, 12)."""
    parts = [images[:, :, y : y + 32, x : x + 32].mean(axis=(2, 3)) / 64 for y in (0, 32) for x in (0, 32)]
    return np.concatenate(parts, axis=1).astype(np.float32)


@pytest.fixture
def extracted(monkeypatch):
    """Puts colours in the place of networks, and lists the (mode, number of images) of all extractions."""
    calls = []

    def extract(images, inception, mode="clean", batch_size=64, description=None, parts=None):
        calls.append((mode, len(images)))
        return colours(images) if mode == "clean" else 2 * colours(images)

    def load(file, device):
        inception = Inception()
        inception.source, inception.sha256 = "made by hand", "f" * 64
        return inception

    monkeypatch.setattr(features, "extract_features", extract)
    monkeypatch.setattr(suite, "load_inception", load)
    return calls


@pytest.fixture
def folders(tmp_path, monkeypatch, extracted):
    """run/nfe=1 (14 images), run/nfe=4 (20), ref (16) and 40 training images, the first 5 of which are in run/nfe=4."""
    monkeypatch.chdir(tmp_path)
    train = make_images(5, 40)
    write_images(tmp_path / "run/nfe=1", make_images(1, 14))
    write_images(tmp_path / "run/nfe=4", np.concatenate([make_images(2, 15), train[:5]]))
    write_images(tmp_path / "ref", make_images(3, 16))
    of_train = replace(get_challenge("simpsons"), load=lambda split, root: (train, None))
    monkeypatch.setattr(suite, "get_challenge", lambda name: get_challenge(name) if name == "toon" else of_train)
    return tmp_path


ARGUMENTS = ("run/nfe=1", "run/nfe=4", "--reference_dir", "ref", "--device", "cpu", "--halves", 6)


def result(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_numbers_are_those_of_the_functions(folders, monkeypatch, capsys):
    assert call(suite, monkeypatch, *ARGUMENTS, "--modes", "clean", "pytorch") == 0
    for name, count in (("nfe=1", 14), ("nfe=4", 20)):
        found = result(folders / "run" / name)
        generated, reference = (colours(features.read_images(folder)) for folder in (folders / "run" / name, folders / "ref"))
        metrics = found["metrics"]["clean"]
        assert metrics["fid"]["value"] == pytest.approx(frechet_distance(generated, reference))
        assert metrics["kid"]["value"] == pytest.approx(kid(generated, reference))
        for key, value in prdc(generated, reference).items():
            assert metrics[key]["value"] == pytest.approx(value)
        for key in ("fid", "kid", "precision", "recall", "density", "coverage"):
            low, high = metrics[key]["interval_95"]
            assert low <= metrics[key]["value"] <= high and metrics[key]["standard_error"] >= 0
        assert found["metrics"]["pytorch"]["fid"]["value"] == pytest.approx(4 * metrics["fid"]["value"])
        assert (found["num_generated"], found["num_reference"]) == (count, 16)
        assert found["networks"]["inception"] == {"source": "made by hand", "sha256": "f" * 64}
        assert set(found["versions"]) == {"torch", "numpy", "scipy", "pillow"}
        assert "nearest_train" not in found and "inception_score" not in metrics
    out = capsys.readouterr().out
    assert "warning: run/nfe=1: 14 generated and 16 reference images" in out
    assert "Inception Score left out" in out


def test_images_are_looked_at_once(folders, extracted, monkeypatch):
    assert call(suite, monkeypatch, *ARGUMENTS) == 0
    assert sorted(extracted) == [("clean", 14), ("clean", 16), ("clean", 20)]
    first = result(folders / "run/nfe=1")
    assert call(suite, monkeypatch, *ARGUMENTS) == 0
    assert len(extracted) == 3
    second = result(folders / "run/nfe=1")
    assert first["metrics"] == second["metrics"], "the same numbers to the last digit"


def test_identical_folders_are_at_distance_zero(folders, monkeypatch):
    assert call(suite, monkeypatch, "ref", "--reference_dir", "ref", "--device", "cpu", "--halves", 0) == 0
    metrics = result(folders / "ref")["metrics"]["clean"]
    assert abs(metrics["fid"]["value"]) < 1e-3 and metrics["precision"]["value"] == metrics["recall"]["value"] == 1
    assert "interval_95" not in metrics["fid"]


def test_order_of_files_changes_nothing(folders, monkeypatch):
    write_images(folders / "turned", make_images(1, 14)[::-1])
    assert call(suite, monkeypatch, "run/nfe=1", "turned", "--reference_dir", "ref", "--device", "cpu", "--halves", 0) == 0
    one, other = (result(folders / name)["metrics"]["clean"] for name in ("run/nfe=1", "turned"))
    for name in ("fid", "kid", "precision", "recall", "density", "coverage"):
        assert one[name]["value"] == pytest.approx(other[name]["value"], rel=1e-6)


def test_compare_and_plot(folders, monkeypatch, capsys):
    assert call(suite, monkeypatch, *ARGUMENTS, "--nearest", "pixels", "features", "--compare", "--plot", "plots") == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[0] == "| | nfe=1 | nfe=4 |"
    assert table[2] == "| images | 14 vs 16 | 20 vs 16 |"
    fids = [result(folders / "run" / name)["metrics"]["clean"]["fid"]["value"] for name in ("nfe=1", "nfe=4")]
    assert [cell.split(" +- ")[0] for cell in table[3].strip("|").split(" | ")[1:]] == [f"{fid:.2f}" for fid in fids]

    nearest = result(folders / "run/nfe=4")["nearest_train"]
    assert nearest["pixels"]["closest"] == nearest["features"]["closest"] == 0
    assert nearest["pixels"]["median"] > 0 and nearest["pixels"]["expected"] == pytest.approx(40 / 56)
    rows = (folders / "run/nfe=4/nearest_train.csv").read_text().splitlines()
    assert rows[0] == "sample,pixels_train_row,pixels_distance,features_train_row,features_distance"
    assert [row.split(",") for row in rows[16:]] == [[str(15 + i), str(i), "0", str(i), "0"] for i in range(5)]
    assert len(rows) == 21

    assert sorted(path.name for path in (folders / "plots").iterdir()) == [
        "fid_by_nfe.png",
        "nearest_train_nfe=1.png",
        "nearest_train_nfe=4.png",
    ]
    sheet = np.asarray(Image.open(folders / "plots/nearest_train_nfe=4.png"))
    assert sheet.shape[0] == 4 * 128, "two rows for each kind"
    np.testing.assert_array_equal(sheet[:128, -1280:][:, : 5 * 128], sheet[128:256, -1280:][:, : 5 * 128])  # the five copies
    assert (sheet[:128, -128:] != sheet[128:256, -128:]).any()
    assert not list((folders / "run/nfe=4").glob("*.partial"))


def test_second_opinion_clip_and_inception_score(folders, open_clip, monkeypatch):  # noqa: F811
    monkeypatch.setattr(second_opinion, "load", lambda device: torch.nn.Identity())
    monkeypatch.setattr(second_opinion, "cached", lambda images, network, batch_size: 3 * colours(images))
    monkeypatch.setattr(suite, "read_classifier", lambda file: torch.eye(12))
    arguments = (*ARGUMENTS, "--second_opinion", "--clip", "tiny:good", "--clip_text", "a face", "--compare")
    assert call(suite, monkeypatch, *arguments) == 0
    found = result(folders / "run/nfe=1")
    clean = found["metrics"]["clean"]
    assert found["metrics"]["efficientnet"]["frechet"]["value"] == pytest.approx(9 * clean["fid"]["value"])
    assert 1 < clean["inception_score"]["value"] < 12
    images = [features.read_images(folders / name).mean(axis=(2, 3)) / 255 * 2 for name in ("run/nfe=1", "ref")]
    assert found["metrics"]["clip"]["frechet"]["value"] == pytest.approx(frechet_distance(*images), abs=1e-5)
    score = found["metrics"]["clip"]["score"]
    expected = 100 * (images[0][:, 0] / np.linalg.norm(images[0], axis=1)).mean()  # the text points along red
    assert score["value"] == pytest.approx(expected, rel=1e-5) and score["text"] == "a face"
    assert set(found["networks"]) == {"inception", "efficientnet", "clip"} and found["versions"]["open_clip"] == "1.2"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: FOLDER"),
        (["absent", "--reference_dir", "ref"], "no folder absent"),
        (["few", "--reference_dir", "ref"], "few holds 11 images; expected at least 12"),
        (["ref", "--reference_dir", "few"], "few holds 11 images; expected at least 12"),
        (["one", "--reference_dir", "ref"], "one holds 1 images"),
        (["ref", "run/../ref", "--reference_dir", "ref"], "a folder is named twice"),
        (["ref", "--reference_dir", "ref", "--plot", "p"], "--plot has nothing to draw"),
        (["ref", "--reference_dir", "ref", "--clip_text", "a face"], "--clip_text needs a model"),
        (["ref", "--reference_dir", "ref", "--halves", "1"], "--halves 1"),
        (["ref", "--reference_dir", "ref", "--inception", "absent.pt"], "--inception absent.pt: no such file"),
        (["small", "--reference_dir", "ref", "--nearest", "pixels"], "leave out --nearest pixels"),
        (["ref", "--reference_dir", "many", "--nearest", "features"], "40 training images are fewer than the 41 of many"),
        (["ref", "--modes", "legacy"], "invalid choice: 'legacy'"),
    ],
)
def test_mistakes_end_in_one_line(folders, monkeypatch, capsys, arguments, words):
    write_images(folders / "few", make_images(1, 11))
    write_images(folders / "one", make_images(1, 1))
    write_images(folders / "small", make_images(1, 12, (32, 32)))
    write_images(folders / "many", make_images(1, 41))
    monkeypatch.setattr(suite, "load_inception", lambda *given: pytest.fail("the weights were loaded first"))
    assert words in fails(suite, monkeypatch, capsys, *arguments, "--device", "cpu")
    assert not list(folders.rglob("metrics.json"))


def test_grey_images_are_held_against_the_test_images(folders, monkeypatch):
    """Of digits: their FID is against all training images, which neighbours are too many of for memory."""
    splits = {"train": make_images(5, 40)[:, :1], "val": make_images(3, 16)[:, :1]}
    digits = replace(get_challenge("mnist"), load=lambda split, root: (splits[split], None))
    monkeypatch.setattr(suite, "get_challenge", lambda name: digits)
    write_images(folders / "made", np.repeat(splits["train"][:13], 3, axis=1))
    flags = ["--challenge", "mnist", "--device", "cpu", "--halves", 0, "--nearest", "pixels"]
    assert call(suite, monkeypatch, "made", *flags) == 0
    found = result(folders / "made")
    assert (found["num_reference"], found["num_train"], list(found["metrics"])) == (16, 40, ["pytorch"])
    assert found["nearest_train"]["pixels"]["closest"] == 0


def test_absent_reference_is_made(folders, monkeypatch):
    made = []

    def write_reference(challenge, root, folder):
        made.append((challenge.name, root, str(folder)))
        write_images(folder, make_images(3, 16))

    monkeypatch.setattr(ImageChallenge, "write_reference", write_reference)
    assert call(suite, monkeypatch, "run/nfe=1", "--data", "toon", "--data_root", "somewhere", "--device", "cpu") == 0
    assert made == [("toon", "somewhere", "data/toon_64x64/val")]


def test_names(tmp_path):
    assert nfe_of(tmp_path / "nfe=12") == 12 and nfe_of(tmp_path / "nfe=") is None and nfe_of(tmp_path / "x") is None
    folders = [tmp_path / "a/samples/nfe=1", tmp_path / "b/samples/nfe=1"]
    assert short_names(folders) == ["a_samples_nfe=1", "b_samples_nfe=1"]
    assert short_names(folders[:1]) == ["nfe=1"]


def test_table_of_different_results():
    one = {"num_generated": 9, "num_reference": 8, "metrics": {"clean": {"kid": {"value": 0.0123, "standard_error": 0.001}}}}
    other = {"num_generated": 7, "num_reference": 8, "metrics": {"clip": {"score": {"value": 20.0}}}}
    assert comparison({"one": one, "other": other}).splitlines() == [
        "| | one | other |",
        "|---|---|---|",
        "| images | 9 vs 8 | 7 vs 8 |",
        "| clean KID x 1000 | 12.30 +- 1.96 | - |",
        "| clip CLIP score | - | 20.00 |",
    ]


@pytest.mark.slow
def test_as_a_command_on_identical_sets(toon, tmp_path, package_file):
    """From the shell, with the real network: toon faces against themselves."""
    folder = write_images(tmp_path / "faces", get_challenge("toon").load("train", "")[0])
    command = [forked_python(), "-m", "src.evaluation", folder, "--reference_dir", folder, "--device", "cpu"]
    done = subprocess.run([*command, "--inception", package_file], capture_output=True, text=True, cwd=PROJECT_ROOT)
    assert done.returncode == 0, done.stderr
    metrics = result(folder)["metrics"]["clean"]
    assert abs(metrics["fid"]["value"]) < 1e-3
    assert metrics["kid"]["value"] < 0, "unbiased: a set and itself are below 0"
    assert metrics["recall"]["value"] == 1 and "clean recall        1.000" in done.stdout
