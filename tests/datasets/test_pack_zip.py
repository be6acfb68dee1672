"""Zip files in EDM's format: read here by that format's rules, and by the challenge."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from src.datasets import pack_zip
from src.datasets.labelled import load_labelled
from tests.helpers import call, random_images

FILES = {"tabby cat/b.PNG": (30, 20), "tabby cat/a.jpg": (16, 40), "강아지/c.webp": (24, 24), "강아지/d.bmp": (25, 32)}
# name -> width, height


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))
    for seed, (name, (width, height)) in enumerate(FILES.items()):
        write_image(tmp_path / "photos" / name, seed, width, height)
    return tmp_path / "photos"


def write_image(path, seed, width, height, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(random_images(1, seed, (3, height, width))[0].transpose(1, 2, 0))
    image.save(path, **{**({"lossless": True} if path.suffix == ".webp" else {}), **options})


def pack(monkeypatch, *words):
    return call(pack_zip, monkeypatch, *words)


def fails(monkeypatch, capsys, *words):
    """The one line with which it refuses, beside a progress bar."""
    assert pack(monkeypatch, *words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip() and not line.startswith("packing:")]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def read_as_edm_does(path):
    """Images and labels by the rules of the format: pictures by sorted name, labels by dataset.json."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        pixels = [np.array(Image.open(io.BytesIO(archive.read(name)))) for name in names]
        labels = json.loads(archive.read("dataset.json"))["labels"]
        classes = None if labels is None else [dict(labels)[name] for name in names]
    return names, np.stack(pixels).transpose(0, 3, 1, 2), classes


def test_a_folder_becomes_what_edm_reads(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert pack(monkeypatch, source, "flowers.zip", "--resolution", 20) == 0
    assert "flowers.zip: 4 images of 20x20, 2 classes: 0 tabby cat, 1 강아지" in capsys.readouterr().out
    names, images, labels = read_as_edm_does("flowers.zip")
    assert names == [f"00000/img0000000{i}.png" for i in range(4)] and labels == [0, 0, 1, 1]
    assert images.shape == (4, 3, 20, 20) and images.dtype == np.uint8
    with zipfile.ZipFile("flowers.zip") as archive:
        assert archive.namelist() == [*names, "dataset.json"] and archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.infolist()[0].file_size > 20 * 20 * 3, "nor is the PNG file compressed"
    found, theirs = load_labelled("train", "flowers.zip")
    assert np.array_equal(found, images) and theirs.tolist() == [1, 1, 2, 2]
    for folder, flags, labels in (
        (source, ["--no-labels"], None),
        (source, ["--labels"], [0, 0, 1, 1]),
        (source / "강아지", [], None),
    ):
        assert pack(monkeypatch, folder, "f.zip", "--resolution", 16, "--overwrite", *flags) == 0
        assert read_as_edm_does("f.zip")[2] == labels
        assert ("no labels" in capsys.readouterr().out) == (labels is None)


def test_crop_and_filter(source, tmp_path, monkeypatch):
    """The middle by whole pixels, the odd one beyond it; then Lanczos' filter."""
    path = tmp_path / "f.zip"
    assert pack(monkeypatch, source, path, "--resolution", 20) == 0
    images = read_as_edm_does(path)[1]
    for i, (name, box) in enumerate({"tabby cat/a.jpg": (0, 12, 16, 28), "tabby cat/b.PNG": (5, 0, 25, 20)}.items()):
        expected = Image.open(source / name).convert("RGB").crop(box).resize((20, 20), Image.LANCZOS)
        assert np.array_equal(images[i], np.asarray(expected).transpose(2, 0, 1))
    expected = Image.open(source / "강아지/d.bmp").crop((0, 3, 25, 28)).resize((20, 20), Image.LANCZOS)  # (32 - 25) // 2 above
    assert np.array_equal(images[3], np.asarray(expected).transpose(2, 0, 1))
    assert np.array_equal(images[1], random_images(1, 0, (3, 20, 30))[0][:, :, 5:25])  # of this size already: as it was


def test_the_same_input_gives_the_same_bytes(source, tmp_path, monkeypatch):
    assert pack(monkeypatch, source, tmp_path / "a.zip", "--resolution", 20) == 0
    for path in source.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    assert pack(monkeypatch, source, tmp_path / "b.zip", "--resolution", 20) == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    write_image(source / "강아지" / "d.bmp", 9, 25, 32)
    assert pack(monkeypatch, source, tmp_path / "c.zip", "--resolution", 20) == 0
    assert (tmp_path / "a.zip").read_bytes() != (tmp_path / "c.zip").read_bytes()


def test_a_zip_at_another_resolution(source, tmp_path, monkeypatch, capsys):
    large, small = tmp_path / "large.zip", tmp_path / "small.zip"
    assert pack(monkeypatch, source, large, "--resolution", 32) == 0
    assert "warning: 4 images were smaller than 32x32, and are blurred" in capsys.readouterr().out
    assert pack(monkeypatch, large, small, "--resolution", 16) == 0
    assert "small.zip: 4 images of 16x16, 2 classes: 0, 1" in capsys.readouterr().out
    assert read_as_edm_does(small)[2] == [0, 0, 1, 1]


def test_without_a_resolution_all_must_be_of_one_size(source, tmp_path, monkeypatch, capsys):
    path = tmp_path / "f.zip"
    line = fails(monkeypatch, capsys, source, path)
    assert "several sizes: the middle of tabby cat/a.jpg is 16x16, of tabby cat/b.PNG 20x20; give --resolution" in line
    assert not path.exists() and not list(tmp_path.glob(".*.partial"))
    for name in ("tabby cat/a.jpg", "강아지/c.webp", "강아지/d.bmp"):
        (source / name).unlink()
    write_image(source / "강아지" / "d.png", 3, 20, 44)
    assert pack(monkeypatch, source, path) == 0
    assert read_as_edm_does(path)[1].shape == (2, 3, 20, 20)


def test_it_overwrites_only_when_told(source, tmp_path, monkeypatch, capsys):
    path = tmp_path / "f.zip"
    path.write_bytes(b"old")
    assert "f.zip exists: name another file, or add --overwrite" in fails(monkeypatch, capsys, source, path, "--resolution", 16)
    write_image(source / "강아지" / "zz.png", 0, 20, 20)
    (source / "강아지" / "zz.png").write_bytes(b"broken")
    assert "zz.png: not a readable image" in fails(monkeypatch, capsys, source, path, "--resolution", 16, "--overwrite")
    assert path.read_bytes() == b"old" and not list(tmp_path.glob(".*.partial"))
    (source / "강아지" / "zz.png").unlink()
    assert pack(monkeypatch, source, path, "--resolution", 16, "--overwrite") == 0 and len(read_as_edm_does(path)[0]) == 4


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["photos", "f"], "f: expected a name that ends in .zip"),
        (["nowhere", "f.zip"], "no folder or zip file nowhere"),
        (["photos", "f.zip", "--resolution", 129], "--resolution 129: expected at most 128"),
        (["photos", "f.zip", "--resolution", 15], "expected a whole number of at least 16"),
        (["photos/강아지", "f.zip", "--labels", "--resolution", 16], "--labels: photos/강아지 has no classes"),
        (["splits", "f.zip"], "splits is divided into splits: pack one of them, such as splits/train"),
        (["large", "f.zip"], "large: the middle of a.png is 200x200, expected 16 to 128 pixels: give --resolution"),
        (["photos", "nothing/../photos", "f.zip"], "unrecognized arguments: f.zip"),
    ],
)
def test_what_is_refused(source, tmp_path, monkeypatch, capsys, words, expected):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "splits" / "train" / "a" / "0.png", 0, 20, 20)
    write_image(tmp_path / "large" / "a.png", 0, 300, 200)
    assert expected in fails(monkeypatch, capsys, *words)
    assert not (tmp_path / "f.zip").exists()
