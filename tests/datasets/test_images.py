"""Folders and zip files of images known by an ID: what is read, what is cached, what is refused."""

import os
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from src.common.cli import UserError
from src.datasets import images
from src.datasets.images import content_hash, images_by_id, load_images

IDS = [str(index) for index in range(6)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six 80x70 images of four kinds, and an empty cache."""
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "faces"
    root.mkdir()
    rng = np.random.default_rng(0)
    for index, suffix in enumerate(("png", "jpg", "jpeg", "webp", "png", "PNG")):
        Image.fromarray(rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(root / f"{index}.{suffix}")
    (root / "notes.txt").write_text("no image")
    return root


def test_pixels_are_those_of_pil_and_torchvision(folder):
    array = load_images(folder, ["3", "0"])
    assert array.shape == (2, 3, 64, 64) and array.dtype == np.uint8
    for pixels, name in zip(array, ("3.webp", "0.png"), strict=True):
        resized = Image.open(folder / name).convert("RGB").resize((64, 64), Image.BILINEAR)
        np.testing.assert_array_equal(pixels, np.asarray(resized).transpose(2, 0, 1))


def test_cropped_folder_and_zip_give_the_same_pixels(folder, tmp_path):
    expected = load_images(folder, IDS)
    nested = tmp_path / "download"
    nested.mkdir()
    os.rename(folder, nested / "cropped")
    np.testing.assert_array_equal(load_images(nested, IDS), expected)
    for inside in ("", "cropped/"):
        archive = tmp_path / f"faces{len(inside)}.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for path in (nested / "cropped").iterdir():
                file.write(path, inside + path.name)
        np.testing.assert_array_equal(load_images(archive, IDS), expected)


def test_decoded_once_then_memory_mapped(folder, tmp_path, monkeypatch):
    """Also where files were touched, moved, or others came beside them; a changed one is decoded again."""
    first = load_images(folder, IDS).copy()
    with monkeypatch.context() as patch:
        patch.setattr(images, "read_picture", lambda *args: pytest.fail("decoded again"))
        os.utime(folder / "1.jpg", (0, 0))
        folder = shutil.move(folder, tmp_path / "moved")
        (folder / "more.png").write_bytes(b"not asked for")
        again = load_images(folder, IDS)
        assert isinstance(again, np.memmap) and not again.flags.writeable
        np.testing.assert_array_equal(again, first)
    Image.new("RGB", (80, 70), "red").save(folder / "0.png")
    after = load_images(folder, IDS)
    assert after[0, :, 0, 0].tolist() == [255, 0, 0]
    np.testing.assert_array_equal(after[1:], first[1:])


@pytest.mark.parametrize("size", [0, 50, 1000])
def test_a_damaged_cache_is_made_again(folder, tmp_path, capsys, size):
    expected = load_images(folder, IDS).copy()
    (path,) = (tmp_path / "cache" / "images").iterdir()
    path.write_bytes(path.read_bytes()[:size])
    np.testing.assert_array_equal(load_images(folder, IDS), expected)
    assert "damaged" in capsys.readouterr().out


def test_missing_ids_are_counted_and_named(folder):
    with pytest.raises(UserError, match=r"7 of 8 images are missing, first x0, x1, x2, x3, x4; the source has 6 images"):
        load_images(folder, ["0"] + [f"x{index}" for index in range(7)])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("0.png", b"", r"the file is empty"),
        ("1.jpg", b"text", r"in no format that Pillow knows"),
        ("2.jpeg", None, r"[Tt]runcated"),
    ],
)
def test_a_broken_picture_is_named_and_nothing_cached(folder, tmp_path, name, content, words):
    (folder / name).write_bytes((folder / name).read_bytes()[:300] if content is None else content)
    with pytest.raises(UserError, match=rf"{name}: not a readable image \({words}"):
        load_images(folder, IDS)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_corrupt_zip_member_is_named(folder, tmp_path):
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(folder / "0.png", "0.png")
    data = bytearray(archive.read_bytes())
    data[200] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"0\.png"):
        load_images(archive, ["0"])


def test_no_source(tmp_path):
    (tmp_path / "broken.zip").write_bytes(b"PK not a zip")
    (tmp_path / "empty").mkdir()
    for name, words in (("absent", "no data at"), ("empty", "no images"), ("broken.zip", "not a readable zip")):
        with pytest.raises(UserError, match=words):
            images_by_id(tmp_path / name)


def test_folders_of_the_same_names_sizes_and_times_are_told_apart(folder, tmp_path):
    first, other = load_images(folder, IDS).copy(), tmp_path / "other"
    shutil.copytree(folder, other)
    pixels = np.asarray(Image.open(folder / "0.png"))
    Image.fromarray(pixels[::-1] // 2).save(other / "0.png")
    (other / "0.png").write_bytes((other / "0.png").read_bytes().ljust((folder / "0.png").stat().st_size, b"\0"))
    for path in (*folder.iterdir(), *other.iterdir()):
        os.utime(path, ns=(0, 0))
    stats = [{path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in root.iterdir()} for root in (folder, other)]
    assert stats[0] == stats[1]
    second = load_images(other, IDS)
    assert (second[0] != first[0]).any() and np.array_equal(second[1:], first[1:])
    hashes = [content_hash(root, ["1.jpg", "2.jpeg"]) for root in (folder, other)]
    assert hashes[0] == hashes[1] != content_hash(other, ["2.jpeg", "1.jpg"])


def test_two_images_of_one_id_are_refused(folder, tmp_path):
    for index in (1, 3):
        Image.new("RGB", (80, 70)).save(folder / f"{index}.bmp")
    with pytest.raises(UserError, match=r"faces: 1\.bmp and 1\.jpg are two images of one ID, and so are 2 in all: keep one"):
        load_images(folder, ["0"])
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.write(folder / "0.png", "0.png")
        file.write(folder / "4.png", "0.png")
    with pytest.raises(UserError, match=r"faces\.zip: two files in it are called 0\.png: pack it anew"):
        load_images(tmp_path / "faces.zip", ["0"])


def test_what_is_left_out_and_lost_is_said_in_a_line_each_also_from_the_cache(folder, tmp_path, capsys):
    for name in (".DS_Store", "._0.png", "Thumbs.db"):  # of systems: without a word
        (folder / name).write_bytes(b"x")
    (folder / "broken.png").symlink_to("nowhere")
    (folder / "more").mkdir()
    Image.new("RGB", (80, 70)).save(folder / "more" / "9.png")
    Image.new("RGBA", (80, 70)).save(folder / "4.png")
    Image.new("LA", (80, 70)).save(folder / "0.png")
    for root in (folder, folder, tmp_path / "nested"):
        if not root.exists():
            (tmp_path / "nested").mkdir()
            folder.rename(root / "cropped")
        load_images(root, IDS)
        lines = capsys.readouterr().out.splitlines()
        first = "broken.png" if root == folder else "cropped/broken.png"
        assert len(lines) == 2
        assert lines[0].startswith(f"{root}: 3 files or folders are left out, such as {first}; pictures end in .png .jpg ")
        lost = "transparency is dropped and hidden colours show (2, such as "
        assert lines[1].startswith(f"{root}: read as RGB of 8 bits: {lost}")
