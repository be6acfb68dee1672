"""Reading folders, preparing images, extracting and caching features."""

import numpy as np
import pytest
import torch
from PIL import Image

from src.common.cli import UserError
from src.evaluation.features import cached_features, comparability_warnings, extract_features, read_images
from src.evaluation.inception import Inception
from tests.evaluation.conftest import Colours, make_images, write_images


def bicubic_by_pillow(image):
    """uint8 (3, H, W) -> float32 (3, 299, 299): Pillow's own resize of each channel in floating point, clipped."""
    channels = [Image.fromarray(channel.astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC) for channel in image]
    return np.stack([np.asarray(channel) for channel in channels]).clip(0, 255)


# ---------------------------------------------------------------------------------------------------- read_images


def test_reads_all_kinds_in_sorted_order_as_rgb(tmp_path, capsys):
    Image.new("RGB", (5, 4), (1, 2, 3)).save(tmp_path / "b.png")
    Image.new("L", (5, 4), 7).save(tmp_path / "a.PNG")
    Image.new("RGBA", (5, 4), (9, 8, 7, 0)).save(tmp_path / "c.webp", lossless=True, exact=True)
    Image.new("RGB", (5, 4), (128, 128, 128)).save(tmp_path / "d.jpg")
    Image.new("RGB", (5, 4), (4, 5, 6)).save(tmp_path / "e.bmp")
    Image.fromarray(np.full((4, 5), 25700, dtype=np.uint16)).save(tmp_path / "f.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "deeper").mkdir()
    images = read_images(tmp_path)
    assert images.shape == (6, 3, 4, 5)
    assert images.dtype == np.uint8
    pixels = [[7, 7, 7], [1, 2, 3], [9, 8, 7], [128, 128, 128], [4, 5, 6], [100, 100, 100]]
    assert images[:, :, 0, 0].tolist() == pixels
    left_out, lost = capsys.readouterr().out.splitlines()
    assert left_out.startswith(f"{tmp_path}: 1 file or folder is left out, such as notes.txt; pictures end in .png .jpg .jpeg ")
    losses = "16 bits are scaled to 8 (1, such as f.png); transparency is dropped and hidden colours show (1, such as c.webp)"
    assert lost == f"{tmp_path}: read as RGB of 8 bits: {losses}; see docs/pictures.md"


def test_names_what_is_wrong_with_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*absent"):
        read_images(tmp_path / "absent")
    with pytest.raises(UserError, match="holds 0 images"):
        read_images(tmp_path)
    write_images(tmp_path, make_images(1, 1))
    with pytest.raises(UserError, match=r"holds 1 images .*at least two"):
        read_images(tmp_path)
    Image.new("RGB", (32, 16)).save(tmp_path / "0001.png")
    with pytest.raises(UserError, match=r"0000\.png is 64x64, 0001\.png is 32x16"):
        read_images(tmp_path)
    (tmp_path / "0001.png").write_bytes(b"text, no image")
    with pytest.raises(UserError, match=r"0001\.png: not a readable image"):
        read_images(tmp_path)


def test_what_makes_scores_incomparable():
    few, small = make_images(1, 3), make_images(1, 4, (32, 48))
    assert comparability_warnings(few, few) == []
    counts, sizes = comparability_warnings(few, small)
    assert counts.startswith("3 generated and 4 reference images") and "images are 64x64, reference images 48x32" in sizes


# ------------------------------------------------------------------------------------------------------ preparing


@pytest.mark.parametrize("size", [(64, 64), (32, 48), (299, 299), (512, 310)])
def test_inputs_are_those_of_the_packages(size, monkeypatch):
    """Of clean-fid Pillow's resize and clipping, to (-128..127) / 128; of pytorch-fid the range -1..1."""
    monkeypatch.setattr(Inception, "forward", lambda self, x: x)
    images = torch.from_numpy(make_images(3, 2, size)).float()
    clean = Inception().features(images, "clean") * 128 + 128
    expected = np.stack([bicubic_by_pillow(image) for image in images.numpy()])
    assert (expected == 0).any() and (expected == 255).any()  # clipping is part of it
    np.testing.assert_allclose(clean.numpy(), expected, atol=2e-4)
    black_and_white = torch.tensor([0.0, 255.0]).reshape(2, 1, 1, 1).expand(2, 3, *size)
    prepared = Inception().features(black_and_white, "pytorch")
    torch.testing.assert_close(prepared, (black_and_white / 127.5 - 1)[:, :, :1, :1].expand(2, 3, 299, 299))


def test_refuses_other_arrays_and_modes():
    with pytest.raises(ValueError, match="float64"):
        extract_features(np.zeros((2, 3, 8, 8)), Inception())
    with pytest.raises(ValueError, match=r"\(2, 8, 8, 3\)"):
        extract_features(np.zeros((2, 8, 8, 3), np.uint8), Inception())
    with pytest.raises(ValueError, match="unknown mode 'legacy'"):
        extract_features(np.zeros((2, 3, 8, 8), np.uint8), Inception(), mode="legacy")


@pytest.mark.filterwarnings("error")
def test_read_only_images_and_any_network(tmp_path):
    """Memory-mapped images, as the data set gives them, and a network other than Inception."""
    images, network = make_images(1, 11), Colours(columns=3)
    np.save(tmp_path / "images.npy", images)
    found = extract_features(np.load(tmp_path / "images.npy", mmap_mode="r"), network)
    np.testing.assert_allclose(found, images.mean(axis=(2, 3)), rtol=1e-5)
    assert network.seen == [8, 3]


@pytest.mark.parametrize("mode", Inception.modes)
def test_batch_size_changes_nothing(inception, mode):
    images = make_images(1, 5)
    of_two, of_five = (extract_features(images, inception, mode, size) for size in (2, 5))
    np.testing.assert_allclose(of_two, of_five, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------- cache


def test_equal_content_is_computed_once(own_cache):
    """Other pixels, modes, shapes or weights are computed anew."""
    images, network = make_images(1, 3), Colours()
    first = cached_features(images, network)
    np.testing.assert_array_equal(cached_features(images.copy(), network), first)
    assert network.seen == [3] and len(list((own_cache / "features").iterdir())) == 1
    changed = images.copy()
    changed[2, 1, 5, 5] ^= 1
    cached_features(changed, network)
    cached_features(images, network, mode="pytorch")
    cached_features(images.reshape(3, 3, 128, 32), network)
    network.sha256 = "0" * 64
    cached_features(images, network)
    assert network.seen == [3] * 5


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "shape", "nan"])
def test_a_damaged_cache_file_is_said_and_made_again(own_cache, capsys, damage):
    images, network = make_images(1, 3), Colours()
    expected = cached_features(images, network)
    file = next((own_cache / "features").iterdir())
    if damage in ("shape", "nan"):
        np.save(file, expected[:2] if damage == "shape" else expected * np.float32(np.nan))
    else:
        file.write_bytes({"truncated": file.read_bytes()[:-9], "empty": b"", "foreign": b"text"}[damage])
    for _ in range(2):
        np.testing.assert_array_equal(cached_features(images, network), expected)
    assert "again" in capsys.readouterr().out
    assert network.seen == [3, 3]
