import io
import os
import sys
import time
import zipfile
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

import dataset
from dataset import SimpsonsDataModule, SimpsonsDataset, get_data_iterator, load_split
from src.challenges import get_challenge, simpsons
from src.challenges.simpsons import split_ids
from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from tests.processes import python


@pytest.fixture
def tiny_split(tmp_path, monkeypatch):
    """A source of ten plain images whose split is 7 + 3; image k is of the grey level 10 k."""
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "faces"
    root.mkdir()
    for index in range(10):
        Image.new("RGB", (64, 64), (10 * index,) * 3).save(root / f"{index}.png")
    ids = {"train": [str(index) for index in range(7)], "val": ["9", "7", "8"]}
    for module in (dataset, simpsons):
        monkeypatch.setattr(module, "split_ids", ids.__getitem__)
    return root


def test_published_split():
    train, val = split_ids("train"), split_ids("val")
    assert len(train) == 8877 and len(val) == 1000
    assert len(set(train) | set(val)) == 9877
    with pytest.raises(ValueError, match="unknown split 'test'"):
        split_ids("test")


def test_items(tiny_split):
    data = SimpsonsDataset(tiny_split, "val")
    assert len(data) == 3 and data[0].shape == (3, 64, 64) and data[0].dtype == torch.float32
    torch.testing.assert_close([data[i][0, 0, 0].item() for i in range(3)], [v / 127.5 - 1 for v in (90, 70, 80)])
    assert SimpsonsDataset(tiny_split, "train", transform=lambda image: image.size)[0] == (64, 64)


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders(tiny_split, workers):
    module = SimpsonsDataModule(tiny_split, batch_size=2, num_workers=workers)
    train = torch.cat(list(module.train_dataloader()))
    assert train.shape == (6, 3, 64, 64), "7 images in batches of 2, the incomplete batch dropped"
    assert len(train[:, 0, 0, 0].unique()) == 6
    assert torch.cat(list(module.val_dataloader()))[:, 0, 0, 0].mul(127.5).add(127.5).round().tolist() == [90, 70, 80]


def test_iterator_goes_on_for_ever():
    iterator = get_data_iterator([1, 2])
    assert [next(iterator) for _ in range(5)] == [1, 2, 1, 2, 1]
    with pytest.raises(ValueError, match="empty"):
        next(get_data_iterator([]))


def test_reference_folder(tiny_split, tmp_path):
    get_challenge("simpsons").write_reference(tiny_split, tmp_path / "ref" / "val")
    files = sorted((tmp_path / "ref" / "val").iterdir())
    assert [file.name for file in files] == ["0000.png", "0001.png", "0002.png"]
    assert [Image.open(file).getpixel((0, 0)) for file in files] == [(90,) * 3, (70,) * 3, (80,) * 3]


def test_no_half_reference_folder(tiny_split, tmp_path, monkeypatch):
    save = Image.Image.save

    def failing(self, path, *args, **kwargs):
        if str(path).endswith("0002.png"):
            raise OSError(28, "No space left on device")
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", failing)
    with pytest.raises(UserError, match="No space left"):
        get_challenge("simpsons").write_reference(tiny_split, tmp_path / "ref")
    assert not list(tmp_path.glob("*ref*"))


def test_first_use_downloads(tiny_split, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAGGLEHUB_CACHE", raising=False)
    cropped = tmp_path / "versions" / "1" / "cropped"
    cropped.parent.mkdir(parents=True)
    kagglehub = Mock(**{"dataset_download.side_effect": ConnectionError("no route")})
    monkeypatch.setitem(sys.modules, "kagglehub", kagglehub)
    with pytest.raises(UserError, match=r"no route.*--data_root"):
        load_split("train")
    kagglehub.dataset_download.side_effect = lambda name: str(tiny_split.rename(cropped).parent)
    assert len(load_split("train")) == 7
    kagglehub.dataset_download.assert_called_with("kostastokis/simpsons-faces")
    assert os.environ["KAGGLEHUB_CACHE"] == "./data"
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(UserError, match="pip install kagglehub"):
        load_split("train")


def test_what_takes_seconds_to_import_is_imported_where_it_is_needed():
    """torchvision for Inception and the download of AFHQ, kagglehub for that of the faces."""
    code = """
import sys
torchvision, sys.modules["torchvision"], sys.modules["kagglehub"] = sys.modules["torchvision"], None, None
import dataset, train, sampling, src.datasets.images, src.challenges.afhq.data
sys.modules["torchvision"] = torchvision
import measure_fid
"""
    python(PROJECT_ROOT, "-c", code)


@pytest.mark.slow
def test_real_faces(simpsons_root, tmp_path):
    train, val = load_split("train", simpsons_root), load_split("val", simpsons_root)
    assert train.shape == (8877, 3, 64, 64) and val.shape == (1000, 3, 64, 64)
    get_challenge("simpsons").write_reference(simpsons_root, tmp_path / "val")
    start = time.perf_counter()
    load_split("train", simpsons_root)
    assert time.perf_counter() - start < 2, "a later start takes under two seconds"
    if simpsons_root.suffix != ".zip":
        return
    with zipfile.ZipFile(simpsons_root) as archive:
        names = {name.split("/")[-1].split(".")[0]: name for name in archive.namelist()}
        original = lambda image_id: np.asarray(Image.open(io.BytesIO(archive.read(names[image_id]))).convert("RGB"))  # noqa: E731
        for ids, array in ((split_ids("train"), train), (split_ids("val"), val)):
            for index in range(0, len(ids), 97):
                np.testing.assert_array_equal(array[index].transpose(1, 2, 0), original(ids[index]))
        for index, image_id in enumerate(split_ids("val")):
            written = np.asarray(Image.open(tmp_path / "val" / f"{index:04d}.png"))
            np.testing.assert_array_equal(written, original(image_id))
