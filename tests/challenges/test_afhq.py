"""Animals: their folders and download, the course's task by its commands in small, what is handed in, its feature network."""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

import measure_fid
import sampling
import train
from src.challenges import CHALLENGES, get_challenge
from src.challenges.afhq import CLASSES
from src.challenges.afhq import data as dataset
from src.common.cli import UserError
from src.evaluation.feature_networks import StarGANInception, load_stargan_inception
from src.submission import __main__ as submission
from tests.helpers import FACES_FLAGS, call, fails, parsed

TRAIN = ["--challenge", "afhq", "--data_root", "animals", "--method", "ddpm", *FACES_FLAGS]
COUNTS = {"train": 6, "val": 5}


def write_animals(root, classes=CLASSES, counts=COUNTS):
    """Noise of a colour for each class, of several sizes, as jpg and as JPEG."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for k, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                size = (70 + number, 90)
                pixels = rng.integers(0, 80, (*size, 3)) + np.eye(3)[k % 3] * 150
                ending = ".JPEG" if number % 2 else ".jpg"
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"flickr_{number:03d}{ending}")
    return root


def in_small(monkeypatch, place):
    """Work in this folder, with animals/ in it; returns that. Previews are of two calls."""
    quick = dataclasses.replace(get_challenge("afhq"), nfe=(2,))
    monkeypatch.setitem(CHALLENGES._items, "afhq", quick)
    monkeypatch.chdir(place)
    monkeypatch.setenv("CHALLENGE_CACHE", str(place / "cache"))
    return write_animals(place / "animals")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    return in_small(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """The folder of a run of two steps, and of 33 images of each scale."""
    place = tmp_path_factory.mktemp("animals")
    with pytest.MonkeyPatch.context() as patch:
        in_small(patch, place)
        flags = ["--run_name", "r", "--batch_size", 4, "--num_iterations", 2]
        assert call(train, patch, *TRAIN, *flags) == 0
        flags = ["--ckpt_path", "results/r/last.ckpt", "--nfe_list", 2, "--num_samples", 33, "--save_dir", "made"]
        assert call(sampling, patch, *flags, "--device", "cpu") == 0
    return place


@pytest.fixture
def samples(made_once, folder):
    """The run and its images, for the test alone."""
    for name in ("results", "made"):
        shutil.copytree(made_once / name, name)
    return Path("made")


def test_the_folders(folder):
    challenge = get_challenge("afhq")
    images, labels = challenge.load("train", folder)
    assert images.shape == (18, 3, 64, 64) and images.dtype == np.uint8
    assert labels.tolist() == [1] * 6 + [2] * 6 + [3] * 6
    strongest = images.reshape(18, 3, -1).mean(axis=2).argmax(axis=1)
    assert (strongest == labels - 1).all()
    assert challenge.load("val", folder)[1].tolist() == [1] * 5 + [2] * 5 + [3] * 5
    assert challenge.class_names(folder) == CLASSES


def test_other_folders_are_one_line(tmp_path, monkeypatch, capsys):
    write_animals(tmp_path / "others", classes=("cat", "dog"))
    flags = [word.replace("animals", "others") for word in TRAIN]
    line = fails(train, monkeypatch, capsys, *flags)
    assert "expected the folders train and val, in each cat, dog, wild; the classes there are cat, dog" in line
    line = fails(train, monkeypatch, capsys, *[word.replace("animals", "nowhere") for word in TRAIN])
    assert "no folder nowhere: expected train/ and val/, in each cat, dog, wild (--data_root)" in line
    (tmp_path / "animals" / "train" / "wild").rename(tmp_path / "gone")
    assert "the classes there are cat, dog" in fails(train, monkeypatch, capsys, *TRAIN)
    (tmp_path / "animals" / "train" / "wild").mkdir()
    assert "the class folder wild holds no images" in fails(train, monkeypatch, capsys, *TRAIN)


def test_the_download(tmp_path, monkeypatch, capsys):
    """The published address is asked for where the default folder is absent, and what went wrong is one line."""
    challenge, function = get_challenge("afhq"), "torchvision.datasets.utils.download_and_extract_archive"
    download = Mock(side_effect=lambda url, folder, **_: write_animals(Path(folder) / "afhq"))
    monkeypatch.setattr(function, download)
    for split, count in (("val", 15), ("train", 18)):
        assert len(challenge.load(split, challenge.default_root)[0]) == count
    download.assert_called_once_with(dataset.URL, "data/datasets", filename="afhq.zip", remove_finished=True)
    monkeypatch.chdir(tmp_path / "animals")
    capsys.readouterr()
    for effect, words in (
        (OSError("[Errno -2] unknown"), "the download failed (OSError: [Errno -2] unknown); give a folder with"),
        (None, "has no folder afhq/train"),
    ):
        monkeypatch.setattr(function, Mock(side_effect=effect))
        assert words in fails(train, monkeypatch, capsys, "--challenge", "afhq", *FACES_FLAGS)


def test_the_courses_settings():
    args = parsed(["--challenge", "afhq", "--method", "ddpm"])
    assert (args.prediction, args.schedule, args.num_train_timesteps) == ("epsilon", "linear", 1000)
    assert (args.lr, args.lr_warmup, args.batch_size, args.num_iterations, args.seed) == (2e-4, 200, 16, 100000, 63)
    assert args.class_conditional and args.label_dropout == 0.1 and args.max_per_class == 3000
    assert (args.ch, args.num_res_blocks, args.dropout) == (128, 4, 0.1)
    assert (list(args.ch_mult), list(args.attn)) == ([1, 2, 2, 2], [1])


def test_at_most_so_many_of_a_class(toon, monkeypatch, capsys):
    flags = ["--batch_size", 4, "--num_iterations", 1, "--max_per_class", 4, "--run_name", "few"]
    assert call(train, monkeypatch, *TRAIN, *flags) == 0
    assert "12 images of 3 classes" in capsys.readouterr().out
    assert call(train, monkeypatch, "--resume", "results/few", "--num_iterations", 2, "--device", "cpu") == 0
    assert "12 images of 3 classes" in capsys.readouterr().out
    line = fails(train, monkeypatch, capsys, "--challenge", "toon", "--max_per_class", 4, *FACES_FLAGS)
    assert "--max_per_class: the data of challenge toon have no classes" in line


def test_what_is_sampled_and_handed_in(samples, tmp_path, monkeypatch, capsys):
    assert sorted(path.name for path in samples.iterdir()) == ["scale=0", "scale=7.5"]
    for scale in samples.iterdir():
        assert sorted(path.name for path in scale.iterdir()) == ["classes_nfe=2.png", "labels.csv", "nfe=2", "sampling.json"]
        assert len(list((scale / "nfe=2").iterdir())) == 33
        assert (scale / "labels.csv").read_text().splitlines()[:3] == ["file,label,class", "0000.png,1,cat", "0001.png,2,dog"]
    Path("notebook.ipynb").write_text("{}")
    assert call(submission, monkeypatch, "pack", "made", "--challenge", "afhq", "--out", "hand_in.zip") == 0
    assert "now prove it: python -m src.submission check hand_in.zip --challenge afhq" in capsys.readouterr().out
    with zipfile.ZipFile("hand_in.zip") as archive:
        names = archive.namelist()
        archive.extractall("unpacked")
    images = [name for name in names if name.startswith("images/")]
    assert len(images) == 64 and images[0] == "images/0.0_00.png" and images[-1] == "images/7.5_31.png"
    assert {"custom_model.py", "train.py", "sheet.png", "src/methods/ddpm.py"} <= set(names)
    assert not any("ckpt" in name or name.startswith("animals") for name in names)
    assert (tmp_path / "unpacked/images/7.5_03.png").read_bytes() == (samples / "scale=7.5/nfe=2/0003.png").read_bytes()
    for place in ("hand_in.zip", "unpacked", "unpacked/images"):
        assert call(submission, monkeypatch, "check", place, "--challenge", "afhq") == 0
        assert "64 images as challenge afhq takes them" in capsys.readouterr().out
    (tmp_path / "unpacked/images/7.5_03.png").unlink()
    line = fails(submission, monkeypatch, capsys, "check", "unpacked", "--challenge", "afhq")
    assert "7.5_03.png is absent; expected 64 images 0.0_00.png to 7.5_31.png, found 63 files" in line


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda made: (made / "scale=0").rename("gone"), "made/scale=0: expected one folder nfe=K to hand in, found none"),
        (lambda made: (made / "scale=0" / "nfe=4").mkdir(), "expected one folder nfe=K to hand in, found nfe=2, nfe=4"),
        (lambda made: (made / "scale=7.5" / "nfe=2" / "0031.png").unlink(), "0031.png is absent"),
        (lambda made: (made / "scale=7.5" / "labels.csv").unlink(), "made/scale=7.5/nfe=2: no labels.csv in it or beside it"),
        (
            lambda made: (made / "scale=0" / "labels.csv").write_text(
                "file,label,class\n" + "".join(f"{number:04d}.png,1,cat\n" for number in range(33))
            ),
            "the first 8 images need two of every class; of dog there are fewer",
        ),
        (lambda made: (made / "scale=0" / "labels.csv").write_text("names\n1\n"), "expected file,label,class"),
    ],
)
def test_what_cannot_be_handed_in(samples, monkeypatch, capsys, spoil, words):
    spoil(samples)
    capsys.readouterr()
    assert words in fails(submission, monkeypatch, capsys, "pack", "made", "--challenge", "afhq", "--out", "x.zip")
    assert not Path("x.zip").exists()


def test_a_model_without_classes_has_no_scales(monkeypatch):
    flags = ["--run_name", "plain", "--batch_size", 4, "--num_iterations", 1, "--no-class_conditional"]
    assert call(train, monkeypatch, *TRAIN, *flags) == 0
    flags = ["--ckpt_path", "results/plain/last.ckpt", "--nfe_list", 1, "--num_samples", 2, "--save_dir", "plain"]
    assert call(sampling, monkeypatch, *flags, "--device", "cpu") == 0
    assert sorted(path.name for path in Path("plain").iterdir()) == ["nfe=1", "sampling.json"]


# ---------------------------------------------------------------------------------------------- the own feature network


@pytest.fixture(scope="module")
def network_file(tmp_path_factory):
    """Random weights of the names of StarGAN v2's class, which has the layers of torchvision's network in four blocks."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("network") / "afhq_inception_v3.ckpt"
    torch.save(StarGANInception().state_dict(), file)
    return file


def test_the_own_network_is_torchvisions_network_in_blocks(network_file):
    from torchvision.models import inception_v3

    network = load_stargan_inception(network_file)
    assert {name.partition(".")[0] for name in network.state_dict()} == {"block1", "block2", "block3", "block4"}
    whole = inception_v3(weights=None, aux_logits=False, transform_input=False, init_weights=False).eval()
    own = list(network.state_dict().values())
    with torch.no_grad():
        theirs = [value for name, value in whole.state_dict().items() if not name.startswith("fc.")]
        for value, mine in zip(theirs, own, strict=True):  # the same layers in the same order
            value.copy_(mine)
    whole.fc = torch.nn.Identity()
    pixels = torch.randint(0, 256, (2, 3, 64, 64)).float()
    resized = torch.nn.functional.interpolate(pixels, (256, 256), mode="bilinear", align_corners=False) / 127.5 - 1
    with torch.no_grad():
        torch.testing.assert_close(network(pixels), whole(resized), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_measured_by_the_own_network(network_file, monkeypatch, capsys):
    """Validation images against themselves have FID 0; the file of the result and the print say by which network."""
    challenge = get_challenge("afhq")
    Path("copies").mkdir()
    for number, pixels in enumerate(challenge.load("val", "animals")[0]):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(f"copies/{number}.png")
    flags = ["--challenge", "afhq", "--data_root", "animals", "--generated_dir", "copies", "--device", "cpu"]
    assert call(measure_fid, monkeypatch, *flags, "--feature_network", network_file) == 0
    out = capsys.readouterr().out
    assert f"feature network: that of {network_file}" in out and "FID of StarGAN v2's Inception, 15 vs 15: " in out
    assert "any NFE: fid_stargan under 30 (the course's full mark, at either scale): reached" in out
    result = json.loads(Path("fid_results.json").read_text())
    assert abs(result["fid_score"]) < 1e-3 and result["fid_score"] == result["fid_stargan"]
    assert result["inception_source"] == "afhq_inception_v3.ckpt" and "fid_pytorch" not in result


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: {"a": torch.zeros(1)}, "1 unknown"),
        (lambda state: dict(list(state.items())[1:]), "1 tensors absent"),
        (lambda state: {name: value[:1] for name, value in state.items() if value.ndim}, "of another shape"),
        (lambda state: ["no", "weights"], "expected a state dict"),
    ],
)
def test_another_file_is_refused(network_file, tmp_path, change, words):
    torch.save(change(torch.load(network_file, weights_only=True)), tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=words):
        load_stargan_inception(tmp_path / "other.ckpt")


def test_an_absent_file_is_one_line(monkeypatch, capsys):
    flags = ["--challenge", "afhq", "--data_root", "animals", "--generated_dir", "animals/val/cat", "--device", "cpu"]
    line = fails(measure_fid, monkeypatch, capsys, *flags, "--feature_network", "nowhere.ckpt")
    assert "--feature_network nowhere.ckpt: no such file" in line
    assert "--feature_network" in fails(
        measure_fid, monkeypatch, capsys, "--generated_dir", "x", "--feature_network", "nowhere.ckpt"
    )
