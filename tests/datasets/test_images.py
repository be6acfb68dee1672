import os
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from src.common.cli import UserError
from src.datasets import images
from src.datasets.images import ImageSource, load_images


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


IDS = [str(index) for index in range(6)]


def test_folder_pixels_are_those_of_pil_and_torchvision(folder):
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


def test_grey_palette_and_transparent_images_become_rgb(tmp_path, monkeypatch):
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))
    for name, mode, colour in (("a", "L", 77), ("b", "RGBA", (10, 20, 30, 0)), ("c", "P", 0)):
        Image.new(mode, (64, 64), colour).save(tmp_path / f"{name}.png")
    array = load_images(tmp_path, ["a", "b"])
    assert array[0, :, 5, 5].tolist() == [77, 77, 77] and array[1, :, 5, 5].tolist() == [10, 20, 30]
    assert load_images(tmp_path, ["c"]).shape == (1, 3, 64, 64)


def test_decoded_once_then_memory_mapped(folder, monkeypatch):
    first = load_images(folder, IDS)
    monkeypatch.setattr(images, "decode_image", lambda *args: pytest.fail("decoded again"))
    again = load_images(folder, IDS)
    assert isinstance(again, np.memmap) and not again.flags.writeable
    np.testing.assert_array_equal(again, first)


def test_a_changed_source_is_decoded_again(folder):
    before = load_images(folder, IDS).copy()
    Image.new("RGB", (80, 70), "red").save(folder / "0.png")
    after = load_images(folder, IDS)
    assert after[0, :, 0, 0].tolist() == [255, 0, 0]
    np.testing.assert_array_equal(after[1:], before[1:])


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


def test_corrupt_image_is_named_and_nothing_cached(folder, tmp_path):
    (folder / "2.jpeg").write_bytes((folder / "2.jpeg").read_bytes()[:300])
    with pytest.raises(UserError, match=r"2\.jpeg"):
        load_images(folder, IDS)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_corrupt_zip_member_is_named(folder, tmp_path):
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(folder / "0.png", "0.png")
    data = bytearray(archive.read_bytes())
    data[200] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"0\.png"):
        load_images(archive, ["0"])


def test_no_source(tmp_path):
    with pytest.raises(UserError, match="no data at"):
        ImageSource(tmp_path / "absent")
    with pytest.raises(UserError, match="no images"):
        ImageSource(tmp_path)
    (tmp_path / "broken.zip").write_bytes(b"PK not a zip")
    with pytest.raises(UserError, match="not a readable zip"):
        ImageSource(tmp_path / "broken.zip")


def as_copied(folder, other, change):
    """A copy of a folder with the same names, sizes and times, one file of which has other content."""
    shutil.copytree(folder, other)
    for path in other.rglob("*"):
        if path.name == "0.png":
            stat, image = path.stat(), np.asarray(Image.open(path)).copy()
            Image.fromarray(change(image)).save(path)
            path.write_bytes(path.read_bytes().ljust(stat.st_size, b"\0"))
            assert path.stat().st_size == stat.st_size
        os.utime(path, ns=(0, (folder / path.relative_to(other)).stat().st_mtime_ns))
    return other


def test_folders_of_the_same_names_sizes_and_times_are_told_apart(folder, tmp_path):
    first = load_images(folder, IDS).copy()
    other = as_copied(folder, tmp_path / "other", lambda image: image[::-1] // 2)
    stats = [{path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in root.iterdir()} for root in (folder, other)]
    assert stats[0] == stats[1]
    second = load_images(other, IDS)
    assert (second[0] != first[0]).any() and np.array_equal(second[1:], first[1:])
    assert ImageSource(folder).content(IDS[1:]) == ImageSource(other).content(IDS[1:]) != ImageSource(other).content(IDS[:1:-1])


def test_touched_copied_and_moved_files_are_not_decoded_again(folder, tmp_path, monkeypatch):
    first = load_images(folder, IDS)
    os.utime(folder / "1.jpg", (0, 0))
    shutil.move(folder, tmp_path / "moved")
    (tmp_path / "moved" / "more.png").write_bytes(b"not asked for")
    monkeypatch.setattr(images, "decode_image", lambda *args: pytest.fail("decoded again"))
    np.testing.assert_array_equal(load_images(tmp_path / "moved", IDS), first)


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
        said = capsys.readouterr().out.splitlines()
        first = "broken.png" if root == folder else "cropped/broken.png"
        assert len(said) == 2
        assert said[0].startswith(f"{root}: 3 files or folders are left out, such as {first}; pictures end in .png .jpg ")
        assert said[1].startswith(
            f"{root}: read as RGB of 8 bits: transparency is dropped and hidden colours show (2, such as "
        )


def test_files_that_are_empty_or_no_pictures_are_named(folder):
    for name, content, words in (("0.png", b"", "the file is empty"), ("1.jpg", b"text", "in no format that Pillow knows")):
        (folder / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: not a readable image \({words}\)"):
            load_images(folder, [name[0]])
