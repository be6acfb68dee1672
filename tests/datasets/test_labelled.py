"""Folders of classes and zip files as others bring them: what is read of them, and what is refused in one line."""

import io
import json
import os
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image

from src.common.cli import UserError
from src.datasets import images
from src.datasets.labelled import class_names, find_files, has_validation, load_labelled
from tests.helpers import random_images

SIZE = 16


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoded(image, kind="png", mode="RGB", **options):
    """The bytes of an image, uint8 (3, H, W)."""
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).convert(mode).save(file, format=kind, **options)
    return file.getvalue()


def one(seed, size=SIZE, width=None):
    return random_images(1, seed, (3, size, width or size))[0]


def write(root, files):
    """Files by their name inside root: bytes, or the seed of an image."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else encoded(one(content)))
    return root


def write_zip(path, files, labels="absent"):
    """A zip of such files and of a dataset.json with these labels, where they are given."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content if isinstance(content, bytes) else encoded(one(content)))
        if labels != "absent":
            archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


EDM = {"00000/img00000000.png": 0, "00000/img00000001.png": 1, "00001/img00010000.png": 2}
CLASSES = [["00001/img00010000.png", 0], ["00000/img00000000.png", 4], ["00000/img00000001.png", 1]]


def expect(loaded, seeds, labels):
    images, found = loaded
    assert np.array_equal(images, np.stack([one(seed) for seed in seeds]))
    assert images.dtype == np.uint8 and isinstance(images, np.memmap) and not images.flags.writeable
    assert (found is None and labels is None) or (found.tolist() == labels and found.dtype == np.int64)


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    ("files", "train", "val", "classes"),
    [
        (
            {"train/b/1.png": 1, "train/b/0.png": 0, "train/a/x.png": 2, "train/c/y.png": 3, "val/c/z.png": 4},
            ([2, 0, 1, 3], [1, 2, 2, 3]),
            ([4], [3]),  # the third class, though it is the only one here
            ("a", "b", "c"),
        ),
        ({"a/0.png": 0, "b/0.png": 1}, ([0, 1], [1, 2]), r"all that it holds are for training; a folder with train/ and", "ab"),
        ({"a/0.png": 0, "train/a/0.png": 0}, None, r"has no val images: its folders are a, train, not val", None),
        ({"1.png": 1, "0.png": 0}, ([0, 1], None), "has no val images", ()),
        ({"train/1.png": 1, "val/0.png": 0, "README.md": b"x"}, ([1], None), ([0], None), ()),
        (
            {"car/0.png": 0, "plane/0.png": 1, "train/0.png": 2},
            ([0, 1, 2], [1, 2, 3]),
            "no val images",
            ("car", "plane", "train"),
        ),
    ],
)
def test_splits_and_classes(tmp_path, files, train, val, classes):
    root = write(tmp_path / "d", files)
    if train:
        expect(load_labelled("train", root), *train)
        assert class_names(root) == tuple(classes) and has_validation(root) == isinstance(val, tuple)
    if isinstance(val, tuple):
        expect(load_labelled("val", root), *val)
    else:
        with pytest.raises(UserError, match=val):
            load_labelled("val", root)


def test_a_messy_folder(tmp_path):
    """Upper-case endings, spaces and Korean in names, what systems and editors leave behind, notes, links."""
    files = {
        "grüne Äpfel/IMG 1.PNG": 0,
        "고양이/사진.Png": 1,
        "고양이/.DS_Store": b"\0\0\0\1Bud1",
        "고양이/._사진.Png": b"\0\5\26\7",  # macOS's resource fork, with the ending of an image
        "고양이/Thumbs.db": b"x",
        "고양이/list.txt": b"x",
        ".ipynb_checkpoints/a.png": 3,
        "__MACOSX/고양이/._사진.Png": b"\0\5\26\7",
        ".DS_Store": b"x",
        "labels.csv": b"x",
    }
    root = write(tmp_path / "d", files)
    os.symlink(root / "고양이" / "사진.Png", root / "grüne Äpfel" / "link.png")
    expect(load_labelled("train", root), [0, 1, 1], [1, 1, 2])
    assert class_names(root) == ("grüne Äpfel", "고양이")


def test_labels_are_the_same_whichever_system_wrote_the_names(tmp_path):
    """macOS takes é and 한 apart, and then sorts them elsewhere."""
    names = ["éa", "z", "한", "ㅏ"]
    composed = write(tmp_path / "c", {f"{unicodedata.normalize('NFC', name)}/0.png": i for i, name in enumerate(names)})
    apart = write(tmp_path / "d", {f"{unicodedata.normalize('NFD', name)}/0.png": i for i, name in enumerate(names)})
    assert sorted(path.name for path in composed.iterdir()) != sorted(path.name for path in apart.iterdir())
    assert class_names(composed) == class_names(apart)
    for seeds, labels in [load_labelled("train", root) for root in (composed, apart)]:
        assert np.array_equal(seeds, load_labelled("train", composed)[0]) and labels.tolist() == [1, 2, 3, 4]
    write(composed, {f"{unicodedata.normalize('NFD', names[0])}/0.png": 0})
    with pytest.raises(UserError, match="two folders called éa"):
        class_names(composed)


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    """Folders that were named in another encoding, as an old Korean zip leaves them."""
    raw = os.fsencode(tmp_path / "d") + "/개".encode("euc-kr")
    os.makedirs(raw)
    (tmp_path / "d" / os.fsdecode("개".encode("euc-kr")) / "0.png").write_bytes(encoded(one(0)))
    expect(load_labelled("train", tmp_path / "d"), [0], [1])
    assert class_names(tmp_path / "d")[0].encode() == rb"\udcb0\udcb3"


def test_folders_and_zips_of_the_same_names_sizes_and_times_are_told_apart(tmp_path):
    same = {"compress_level": 0}  # so that all images have as many bytes
    for name, seed in (("d", 0), ("e", 1)):
        files = {"a/0.png": encoded(one(seed), **same), "b/0.png": encoded(one(2), **same)}
        root = write(tmp_path / name, files)
        for path in root.rglob("*.png"):
            os.utime(path, ns=(0, 0))
        expect(load_labelled("train", root), [seed, 2], [1, 2])
        expect(load_labelled("train", write_zip(tmp_path / f"{name}.zip", files)), [seed, 2], None)
    assert len({path.stat().st_size for path in tmp_path.glob("*/?/0.png")}) == 1


def test_what_is_left_out_is_said_in_one_line(tmp_path, capsys):
    mess = {".DS_Store": b"x", "a/Thumbs.db": b"x", "a/._0.png": b"x", "a/0.png": 0, "a/clip.gif": b"x", "a/more/1.png": 1}
    load_labelled("train", write(tmp_path / "d", {**mess, "b/0.PNG": 1, "README.md": b"x"}))
    assert capsys.readouterr().out.startswith(
        f"{tmp_path}/d: 3 files or folders are left out, such as README.md; pictures end in"
    )
    load_labelled("train", write_zip(tmp_path / "d.zip", {"00000/0.png": 0, "00000/clip.gif": b"x"}, [["00000/0.png", 0]]))
    assert capsys.readouterr().out.startswith(f"{tmp_path}/d.zip: 1 file or folder is left out, such as 00000/clip.gif")
    unpacked = write(tmp_path / "e", {"00000/0.png": 0, "x.txt": b"x", "dataset.json": b'{"labels": null}'})
    load_labelled("train", unpacked)
    assert capsys.readouterr().out.startswith(f"{unpacked}: 1 file or folder is left out, such as x.txt")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a/0.png": 0, "b/notes.txt": b"x"}, r"d: the class folder b holds no images \(\.png, \.jpg"),
        (
            {"afhq/train/cat/0.png": 0, "afhq/val/cat/0.png": 0},
            r"d: the class folder afhq holds no images .*; the folders in it \(train, val\) are not searched",
        ),
        ({"notes.txt": b"x", ".hidden/a.png": 0}, "d holds no class folders and no images"),
        ({"a/0.png": 0, "cover.jpg": 1}, r"d holds 1 images, such as cover\.jpg, beside class folders \(a\)"),
        ({"a/0.png": 0, "a/1.png": encoded(one(1, 20))}, r"several sizes: a/0\.png is 16x16, a/1\.png is 20x20; python -m"),
        ({"a/0.png": 0, "a/1.png": encoded(one(1, 16, 20))}, r"a/0\.png is 16x16, a/1\.png is 20x16"),
        ({"a/0.png": encoded(one(0, 16, 20))}, r"d: a/0\.png is 20x16, expected a square of 16 to 128 pixels; python -m"),
        ({"a/0.png": encoded(one(0, 15))}, r"a/0\.png is 15x15, expected a square of 16 to 128"),
        ({"a/0.png": encoded(one(0, 129))}, r"a/0\.png is 129x129, expected a square of 16 to 128"),
        ({"a/0.png": 0, "a/1.png": b"no picture"}, r"d: a/1\.png: not a readable image"),
        ({"a/0.png": 0, "a/1.png": encoded(one(1))[:300]}, r"d: a/1\.png: not a readable image"),
        ({"train/a/0.png": 0, "val/b/0.png": 0}, r"val: class b has no training images; those of .*train are of a$"),
        ({"train/a/0.png": 0, "val/a/0.txt": b"x"}, r"val: the class folder a holds no images"),
    ],
)
def test_a_folder_that_is_refused(tmp_path, cache, files, words):
    root = write(tmp_path / "d", files)
    with pytest.raises(UserError, match=words) as error:
        load_labelled("val" if "val/" in str(files) and "afhq" not in str(files) else "train", root)
    assert "\n" not in str(error.value) and not list(cache.rglob("*.npy"))


def test_absent_and_unreadable(tmp_path):
    with pytest.raises(UserError, match=r"no data at .*nowhere: expected a folder of class folders, or a zip file"):
        find_files("train", tmp_path / "nowhere")
    folder = write(tmp_path / "d", {"a/0.png": 0}) / "a"
    folder.chmod(0)
    try:
        if os.access(folder, os.R_OK):
            pytest.skip("permissions bind no superuser")
        with pytest.raises(UserError, match=r"cannot read the folder .*a: Permission denied"):
            find_files("train", tmp_path / "d")
    finally:
        folder.chmod(0o755)


# ----------------------------------------------------------------------------------------------------------- zip files


WINDOWS = {name.replace("/", "\\"): seed for name, seed in EDM.items()}
BACKSLASHED = [[name.replace("/", "\\"), label] for name, label in CLASSES]


@pytest.mark.parametrize(
    ("files", "labels"),
    [(EDM, CLASSES), (EDM, dict(CLASSES)), (EDM, BACKSLASHED), (WINDOWS, BACKSLASHED), (EDM, None), (EDM, "absent")],
)
def test_edms_zip(tmp_path, files, labels):
    """With its labels as a list or an object, by the slashes of Windows too, and without labels."""
    path = write_zip(tmp_path / "d.zip", files, labels)
    has_labels = labels not in (None, "absent")
    expect(load_labelled("train", path), [0, 1, 2], [5, 2, 1] if has_labels else None)
    assert class_names(path) == (("0", "1", "2", "3", "4") if has_labels else ())  # a class may have no images
    assert not has_validation(path)
    with pytest.raises(UserError, match=r"d\.zip has no val images"):
        load_labelled("val", path)


def test_a_zip_that_was_packed_again(tmp_path):
    """By macOS: in one folder, with entries beside it and resource forks; with files that are no images; deflated."""
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cifar/", b"")
        for name, seed in EDM.items():
            archive.writestr(f"cifar/{name}", encoded(one(seed)))
            archive.writestr(f"__MACOSX/cifar/{name.replace('img', '._img')}", b"\0\5\26\7")
        archive.writestr("cifar/.DS_Store", b"x")
        archive.writestr("cifar/readme.txt", b"x")
        archive.writestr("cifar/dataset.json", "\ufeff" + json.dumps({"labels": CLASSES, "source": "elsewhere"}))
        archive.writestr("__MACOSX/cifar/._dataset.json", b"\0\5\26\7")
    expect(load_labelled("train", path), [0, 1, 2], [5, 2, 1])


def test_an_unpacked_zip(tmp_path):
    path = write_zip(tmp_path / "d.zip", EDM, CLASSES)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "d")
    write(tmp_path / "d", {"00000/._img00000000.png": b"x", "__MACOSX/00000/img00000000.png": 7})
    expect(load_labelled("train", tmp_path / "d"), [0, 1, 2], [5, 2, 1])
    (tmp_path / "d" / "00000" / "img00000001.png").unlink()
    with pytest.raises(UserError, match=r"d: dataset\.json names 1 files that are absent, first 00000/img00000001\.png"):
        load_labelled("train", tmp_path / "d")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            [*CLASSES, ["00000/img00000009.png", 0]],
            r"dataset\.json names 1 files that are absent, first 00000/img00000009\.png",
        ),
        (CLASSES[:1], r"dataset\.json leaves out 2 images, first 00000/img00000000\.png"),
        ([], r"leaves out 3 images"),
        (
            [[name, "cat"] for name, _ in CLASSES],
            r"gives 00001/img00010000\.png the class 'cat', expected a whole number from 0",
        ),
        ([[name, -1] for name, _ in CLASSES], "the class -1, expected a whole number from 0 to 65535"),
        ([[name, 10**9] for name, _ in CLASSES], "the class 1000000000, expected a whole number from 0 to 65535"),
        ([[name, 0.5] for name, _ in CLASSES], r"the class 0\.5, expected"),
        ([[name, True] for name, _ in CLASSES], "the class True, expected"),
        ([[name, None] for name, _ in CLASSES], "the class None, expected"),
        ([[name, [1, 0]] for name, _ in CLASSES], r"the class \[1, 0\], expected"),
        ([*CLASSES, [CLASSES[0][0], 3]], r"gives 00001/img00010000\.png two classes, 0 and 3"),
        ([1, 2, 3], r'dataset\.json is not {"labels": \[\[file, class\], \.\.\.\]}, and not'),
        (5, "is not"),
    ],
)
def test_labels_that_are_refused(tmp_path, labels, words):
    path = write_zip(tmp_path / "d.zip", EDM, labels)
    with pytest.raises(UserError, match=words) as error:
        load_labelled("train", path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"label": null}', b"\xff\xfe", b""])
def test_a_dataset_json_that_is_none(tmp_path, text):
    path = write_zip(tmp_path / "d.zip", {**EDM, "dataset.json": text})
    with pytest.raises(UserError, match=r"d\.zip: dataset\.json is (malformed JSON|not )"):
        load_labelled("train", path)


def damage(path):
    """Flip a byte in the first image's pixels."""
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b"no zip"), r"d\.zip: not a readable zip file"),
        (lambda path: path.write_bytes(b""), r"d\.zip: not a readable zip file"),
        (lambda path: path.write_bytes(write_zip(path, EDM).read_bytes()[:1000]), r"d\.zip: not a readable zip file"),
        (lambda path: write_zip(path, {"readme.txt": b"x"}), r"d\.zip: no images \(\.png"),
        (lambda path: write_zip(path, {"readme.txt": b"x"}, []), r"d\.zip: no images \(\.png"),
        (lambda path: write_zip(path, {**EDM, "00002/img2.png": b"x"}), r"d\.zip: 00002/img2\.png: not a readable image"),
        (lambda path: damage(write_zip(path, EDM)), r"d\.zip: cannot read 00000/img00000000\.png \(Bad CRC"),
        (
            lambda path: write_zip(path, {**EDM, "x.png": encoded(one(0, 32))}),
            r"several sizes: 00000/img0+\.png is 16x16, x\.png",
        ),
    ],
)
def test_a_zip_that_is_refused(tmp_path, cache, make, words):
    make(tmp_path / "d.zip")
    with pytest.raises(UserError, match=words) as error:
        load_labelled("train", tmp_path / "d.zip")
    assert "\n" not in str(error.value) and not list(cache.rglob("*.npy"))


def test_large_photographs_are_refused_before_all_are_decoded(tmp_path, monkeypatch):
    root = write(tmp_path / "d", {f"a/{i}.png": encoded(one(i, 200)) for i in range(9)})
    opened = []
    monkeypatch.setattr(images, "read_picture", lambda file, name, _: opened.append(name) or Image.open(file))
    with pytest.raises(UserError, match="200x200, expected a square of 16 to 128"):
        load_labelled("train", root)
    assert len(opened) == 1
