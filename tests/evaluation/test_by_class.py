"""--by_class: which labels are read, the numbers of each class, and what is refused. Features stand in: coarse pixels."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from src.challenges import get_challenge
from src.challenges.shared.images import ImageChallenge
from src.common.classes import LABELS, labels_table, write_labels
from src.common.cli import UserError
from src.evaluation import __main__ as suite
from src.evaluation import by_class, features
from src.evaluation import classifier as room
from src.evaluation.classifier import ClassifierConfig
from src.evaluation.fid import frechet_distance
from src.evaluation.inception import Inception
from src.evaluation.metrics import MIN_IMAGES
from src.evaluation.prdc import prdc
from src.evaluation.tables_and_plots import class_table, comparison
from tests.evaluation.conftest import write_images
from tests.evaluation.patterns import NAMES, make_patterns
from tests.helpers import call, fails, slow_but

QUICK = partial(ClassifierConfig, epochs=20)
SETS = {"train": make_patterns(0, 120), "val": make_patterns(1, 45)}


def coarse(images):
    """Features by hand: the colours of 4x4 squares, (N, 48)."""
    return images.reshape(len(images), 3, 4, 4, 4, 4).mean(axis=(3, 5)).reshape(len(images), -1).astype(np.float32) / 64


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """An empty working directory, coarse pixels instead of Inception, and a challenge of patterns by every name."""

    def load_inception(file, device):
        inception = Inception()
        inception.source, inception.sha256 = "made by hand", "f" * 64
        return inception

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "extract_features", lambda images, *rest: coarse(images))
    monkeypatch.setattr(suite, "load_inception", load_inception)
    monkeypatch.setattr(suite, "ClassifierConfig", QUICK)
    be_challenge(monkeypatch)
    return tmp_path


def be_challenge(monkeypatch, name="simpsons", classes=NAMES, **splits):
    """Make a challenge with these names of classes and these splits, SETS where not given, the one that is asked for."""
    told = {**SETS, **splits}
    changed = replace(get_challenge(name), load=lambda split, root: told[split], classes=classes)
    monkeypatch.setattr(suite, "get_challenge", lambda asked: changed)
    return changed


def write_csv(folder, labels, first="file,label,class", names=NAMES):
    """labels.csv in a folder, of the images that write_images writes."""
    rows = [f"{i:04d}.png,{label},{names[label - 1] if label else ''}" for i, label in enumerate(labels)]
    (folder / LABELS).write_text("\n".join([first, *rows]) + "\n")


def write_samples(folder, images, labels):
    """A folder of images, and labels.csv beside it."""
    write_images(folder, images)
    write_csv(folder.parent, labels)
    return folder


def run(monkeypatch, *folders, **options):
    flags = [word for name, value in options.items() for word in (f"--{name}", *np.atleast_1d(value))]
    return call(suite, monkeypatch, *folders, "--by_class", "--device", "cpu", "--halves", 6, *flags)


def result(folder):
    return json.loads((folder / "metrics.json").read_text())


# ------------------------------------------------------------------------------------------------------------ numbers


def test_numbers_of_a_class_are_those_of_its_images_alone(work, monkeypatch, capsys):
    """42 images that the classifier reads without a mistake, nine of which were asked for another class than they show."""
    images, shown = make_patterns(2, 42)
    asked = shown.copy()
    asked[:9] = asked[:9] % 3 + 1  # three of each class show the one before
    write_samples(work / "s/nfe=1", images, asked)
    assert run(monkeypatch, "s/nfe=1", modes=["clean", "pytorch"]) == 0
    found, share = result(work / "s/nfe=1"), 33 / 42
    by_class, kept = found["by_class"], found["networks"]["classifier"]
    assert by_class["accuracy"]["value"] == share and by_class["accuracy"]["count"] == 42
    assert by_class["accuracy"]["standard_error"] == pytest.approx((share * (1 - share) / 42) ** 0.5)
    assert by_class["real_accuracy"]["value"] >= 0.95 and by_class["real_accuracy"]["count"] == 45
    assert by_class["no_class"] == 0 and list(by_class["classes"]) == [*NAMES] and by_class["left_out"] == {}
    assert kept["source"].startswith("120 training images of ") and len(kept["sha256"]) == 64
    real, real_labels = SETS["val"]
    for label, entry in enumerate(by_class["classes"].values(), start=1):
        assert (entry["label"], entry["num_generated"]) == (label, 14)
        assert entry["accuracy"]["value"] == 11 / 14 and entry["accuracy"]["count"] == 14
        assert entry["real_accuracy"]["count"] == 15
        mine, theirs = coarse(images[asked == label]), coarse(real[real_labels == label])
        for mode in ("clean", "pytorch"):
            numbers = entry[mode]
            assert numbers["fid"]["value"] == pytest.approx(frechet_distance(mine, theirs))
            assert numbers["recall"]["value"] == pytest.approx(prdc(mine, theirs)["recall"])
            assert numbers["num_reference"] == 15 and numbers["fid"]["standard_error"] > 0
            for each in (numbers["fid"], numbers["recall"]):
                assert each["interval_95"][0] <= each["value"] <= each["interval_95"][1]
    out = capsys.readouterr().out
    assert "  accuracy                 0.7857 +- 0.1241\n" in out
    assert "| class | images | accuracy | accuracy on real images | clean FID | clean recall | pytorch FID |" in out
    assert "| standing | 14 | 0.7857 +- 0.2149 | 1.0000 +- 0.0000 |" in out


def test_classes_with_too_few_images_are_left_out(work, monkeypatch, capsys):
    """13, 12 and 11 images: MIN_IMAGES is enough and one less is not. None at all of a class are no accuracy of it."""
    images, labels = make_patterns(2, 60)
    rows = np.concatenate([np.flatnonzero(labels == label)[:count] for label, count in ((1, 13), (2, 12), (3, 11))])
    write_samples(work / "s/nfe=1", images[rows], labels[rows])
    few = np.concatenate([np.flatnonzero(labels == 1)[:20], np.flatnonzero(labels == 2)[:2]])
    write_samples(work / "t/nfe=1", images[few], np.where(np.arange(len(few)) < 6, 0, labels[few]))  # six of no class
    assert MIN_IMAGES == 12 and run(monkeypatch, "s/nfe=1", "t/nfe=1") == 0
    told = result(work / "s/nfe=1")["by_class"]
    assert ["clean" in entry for entry in told["classes"].values()] == [True, True, False]
    assert told["left_out"] == {"chequers": "11 generated and 15 reference images, expected at least 12 of both"}
    assert "accuracy" in told["classes"]["chequers"]
    told = result(work / "t/nfe=1")["by_class"]
    assert "accuracy" not in told["classes"]["chequers"] and told["classes"]["chequers"]["num_generated"] == 0
    assert told["no_class"] == 6 and told["accuracy"]["count"] == told["classes"]["lying"]["num_generated"] + 2 == 16
    out = capsys.readouterr().out
    assert "6 images were asked for no class, and are left out here\n" in out
    assert "no FID and recall of chequers: 11 generated and 15 reference images, expected at least 12 of both\n" in out
    assert "| chequers | 0 | - | 1.0000 +- 0.0000 | - | - |\n" in out


def test_another_reference_has_no_known_labels(work, monkeypatch, capsys):
    images, labels = make_patterns(2, 42)
    write_samples(work / "s/nfe=1", images, labels)
    write_images(work / "val", SETS["val"][0])
    write_images(work / "other", make_patterns(3, 30)[0])
    assert run(monkeypatch, "s/nfe=1", reference_dir="val") == 0
    assert result(work / "s/nfe=1")["by_class"]["left_out"] == {}
    assert run(monkeypatch, "s/nfe=1", reference_dir="other") == 0
    told = result(work / "s/nfe=1")["by_class"]
    assert set(told["left_out"]) == {*NAMES} and told["accuracy"]["value"] >= 0.95
    line = "no FID and recall of lying, standing, chequers: the reference is not the validation split, whose labels are known"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("training", "flip"), slow_but([({"flip": False}, False)], [({}, True), ({"flip": True}, True), ({"flip": False}, False)])
)
def test_the_classifier_is_trained_once_and_mirrors_as_the_challenge_does(work, monkeypatch, training, flip):
    changed = replace(be_challenge(monkeypatch), training=training)
    monkeypatch.setattr(suite, "get_challenge", lambda asked: changed)
    configs, original = [], room.train_classifier
    monkeypatch.setattr(room, "train_classifier", lambda *given: configs.append(given[3]) or original(*given))
    images, labels = make_patterns(2, 30)
    for name in ("s/nfe=1", "t/nfe=1"):
        write_samples(work / name, images, labels)
    assert run(monkeypatch, "s/nfe=1", "t/nfe=1") == 0 and run(monkeypatch, "s/nfe=1") == 0
    assert [config.flip for config in configs] == [flip]


def test_accuracies_stand_in_the_comparison():
    share = {"value": 0.9, "standard_error": 0.01, "count": 900}
    one = {"num_generated": 9, "num_reference": 8, "metrics": {"clean": {"fid": {"value": 3.0}}}}
    told = {"accuracy": share, "real_accuracy": {**share, "value": 0.8}, "no_class": 0, "classes": {}, "left_out": {}}
    assert comparison({"one": one, "other": {**one, "by_class": told}}).splitlines()[3:] == [
        "| clean FID | 3.00 | 3.00 |",
        "| accuracy | - | 0.9000 +- 0.0196 |",
        "| accuracy on real images | - | 0.8000 +- 0.0196 |",
    ]
    assert len(class_table({**one, "by_class": told})) == 2


# ------------------------------------------------------------------------------------------------------------- labels


def test_what_sampling_writes_is_read(work):
    """Ten thousand images and more: 10000.png comes before 1001.png by name, and still has its own label."""
    challenge = get_challenge("simpsons")
    labels = torch.arange(10_050) % 4
    write_labels(labels_table([challenge.file_name(i) for i in range(10_050)], labels.tolist(), NAMES), work, [])
    pictures = sorted(challenge.file_name(i) for i in range(10_050))
    found = by_class.read_labels(work / LABELS, work / "nfe=1", pictures, NAMES)
    assert pictures[1001] == "10000.png" and found[1001] == 10_000 % 4
    expected = [int(name.removesuffix(".png")) % 4 for name in pictures]
    assert found.dtype == np.int64 and found.tolist() == expected


def test_labels_in_a_folder_come_before_those_beside_it(work, capsys):
    """Their rows may be in any order, and names have commas and quotes."""
    images, labels = make_patterns(2, 12)
    write_samples(work / "s/nfe=1", images, labels % 3 + 1)
    assert np.array_equal(by_class.read_labelled(work / "s/nfe=1", NAMES)[1], labels % 3 + 1)
    write_csv(work / "s/nfe=1", labels)
    first, *rows = (work / "s/nfe=1" / LABELS).read_text().splitlines()
    (work / "s/nfe=1" / LABELS).write_text("\r\n".join([first, *rows[::-1]]), encoding="utf-8-sig")
    read, read_labels = by_class.read_labelled(work / "s/nfe=1", NAMES)
    assert np.array_equal(read_labels, labels) and np.array_equal(read, images)
    assert "left out" not in capsys.readouterr().out
    names = ('a, or "b"', "c")
    write_labels(labels_table(["0000.png", "0001.png"], [1, 2], names), work, [])
    assert by_class.read_labels(work / LABELS, work, ["0000.png", "0001.png"], names).tolist() == [1, 2]


def test_sub_folders_named_by_class(work, monkeypatch):
    """The same numbers as with labels.csv; in the order of the classes, not of their names; not all need be there."""
    images, labels = make_patterns(2, 42)
    order = np.argsort(labels, kind="stable")
    write_samples(work / "s/nfe=1", images[order], labels[order])
    for label, name in enumerate(NAMES, start=1):
        write_images(work / "sorted" / name, images[labels == label])
    (work / "sorted/.hidden").mkdir()
    assert run(monkeypatch, "s/nfe=1", "sorted") == 0
    one, other = (result(work / name)["by_class"] for name in ("s/nfe=1", "sorted"))
    assert one == other
    found, read = by_class.read_labelled(work / "sorted", NAMES)
    assert np.array_equal(found, images[order]) and np.array_equal(read, labels[order])
    for file in (work / "sorted/standing").iterdir():
        file.unlink()
    (work / "sorted/standing").rmdir()
    assert set(by_class.read_labelled(work / "sorted", NAMES)[1]) == {1, 3}


GOOD = "file,label,class\n0000.png,1,lying\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "its first line is '', expected file,label,class"),
        ("file,label\n0000.png,1\n", "its first line is 'file,label'"),
        ("file,label,class\n0000.png,1\n", "line 2: 2 values, expected file,label,class"),
        (GOOD + '0001.png,2,"stand', "damaged (unexpected end of data)"),
        (GOOD + "0001.png,4,chequers\n", "line 3: label '4', expected 1 to 3, or 0 for no class"),
        (GOOD + "0001.png,two,standing\n", "line 3: label 'two', expected 1 to 3"),
        (GOOD + f"0001.png,{'1' * 5000},standing\n", "line 3: label '111"),
        (GOOD + "0001.png,2,chequers\n", "line 3: label 2 is class 'standing', not 'chequers'"),
        (GOOD + "0001.png,0,lying\n", "line 3: label 0 is class '', not 'lying'"),
        (GOOD + "0000.png,1,lying\n", "line 3: 0000.png stands there twice"),
        (GOOD, "has 1 images, nfe=1 holds 2; sample anew"),
        (GOOD + "1.png,2,standing\n", "does not have 0001.png of nfe=1"),
        ("file,label,class\n0000.png,0,\n0001.png,0,\n", "no image of nfe=1 was asked for a class"),
        (b"\xff\xfef\x00", "is in UTF-16; save it as UTF-8"),
        (b"file,label,class\n0000.png,1,ly\xe9", "is not in UTF-8"),
    ],
)
def test_labels_that_do_not_fit(work, text, words):
    (work / LABELS).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        by_class.read_labels(work / LABELS, "nfe=1", ["0000.png", "0001.png"], NAMES)
    assert words in str(error.value) and LABELS in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("folder", "change", "words"),
    [
        (
            "bare/nfe=1",
            {},
            "bare/nfe=1: no labels.csv in it or beside it, and no sub-folders named by class; sampling.py writes",
        ),
        ("more/nfe=1", {}, "labels.csv has 21 images, more/nfe=1 holds 20"),
        ("wrong", {}, "wrong: nfe=1 is no class; expected images, or sub-folders named lying, standing, chequers"),
        ("small/nfe=1", {}, "small/nfe=1: images are 8x8; the classifier of --by_class is of training images of 16x16"),
        ("uneven", {}, "uneven: images of different sizes: lying/0000.png is 16x16, standing/0000.png is 8x8"),
        ("s/nfe=1", {"classes": ()}, "--by_class: the images of --challenge simpsons have no classes"),
        ("s/nfe=1", {"train": (SETS["train"][0], None)}, "the training images of --data_root"),
        ("s/nfe=1", {"val": (SETS["val"][0], None)}, "the validation images of --data_root"),
    ],
)
def test_mistakes_end_in_one_line(work, monkeypatch, capsys, folder, change, words):
    images, labels = make_patterns(2, 20)
    write_images(work / "bare/nfe=1", images)
    write_samples(work / "more/nfe=1", images, [*labels, 1])
    write_samples(work / "wrong/nfe=1", images, labels)
    write_samples(work / "s/nfe=1", images, labels)
    write_samples(work / "small/nfe=1", images[..., :8, :8], labels)
    write_images(work / "uneven/lying", images)
    write_images(work / "uneven/standing", images[..., :8, :8])
    be_challenge(monkeypatch, **change)
    for name in ("load_inception", "cached_classifier"):
        monkeypatch.setattr(suite, name, lambda *given: pytest.fail("work was done first"))
    monkeypatch.setattr(ImageChallenge, "reference_dir", lambda challenge: "")
    assert words in fails(suite, monkeypatch, capsys, folder, "--by_class", "--device", "cpu")
    assert not list(work.rglob("metrics.json"))
