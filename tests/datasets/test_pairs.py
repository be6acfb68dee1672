"""Pairs of noise and image: what is in a folder, and what is left of one whose making was killed."""

import json

import numpy as np
import pytest
import torch

from src.common.checkpoints import save_model
from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.common.noise import draw_noise, image_seeds
from src.datasets import pairs
from src.datasets.pairs import __main__ as making
from tests.helpers import BOTH_PRECISIONS, SHAPE, TINY, assert_images_agree, call, fails, tiny_model
from tests.processes import several_pythons

CPU = torch.device("cpu")


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    """A run of a tiny teacher of 16x16 images; files of pairs hold four of them."""
    for module in (pairs, making):
        monkeypatch.setattr(module, "SHARD", 4)
    return make_teacher(tmp_path / "teacher")


def make_teacher(folder, method="rectified_flow", says_shape=True):
    model = tiny_model(method)
    save_model(model, folder / "last.ckpt", {"method": method, **TINY})
    if says_shape:
        (folder / "training_config.json").write_text(json.dumps({"image_shape": SHAPE}))
    return folder


def flags(teacher, out, count=10, steps=2, *more):
    return ["--teacher", teacher, "--out", out, "--count", count, "--steps", steps, "--batch_size", 3, "--device", "cpu", *more]


def counted(monkeypatch):
    """The numbers of images of all calls of make_pairs from now on."""
    make, calls = making.make_pairs, []
    monkeypatch.setattr(making, "make_pairs", lambda *args: calls.append(len(args[3])) or make(*args))
    return calls


def assert_equal_pairs(images, expected, precision):
    """Images float16 (N, 3, H, W) of the same noises, made in other batches."""
    images, expected = (torch.from_numpy(array).float() for array in (images, expected))
    assert_images_agree(images, expected, precision, tiny_model().network, atol=2e-3, rtol=1e-7)


@BOTH_PRECISIONS
@pytest.mark.parametrize("method", ["rectified_flow", "edm", "ddpm", "consistency", "reflow"])
def test_an_image_is_what_the_teacher_makes_of_its_noise(teacher, method, tmp_path, monkeypatch, precision):
    teacher = make_teacher(tmp_path / method, method)
    assert call(making, monkeypatch, *flags(teacher, tmp_path / "p", 10, 2, "--precision", precision)) == 0
    images, seeds = pairs.load_pairs(tmp_path / "p")
    assert images.shape == (10, *SHAPE) and images.dtype == np.float16 and seeds.dtype == np.int64
    assert seeds.tolist() == image_seeds(0, 0, 10) and len(set(seeds.tolist())) == 10
    images, model = torch.from_numpy(images).float(), tiny_model(method)
    expected = model.sample((10, *SHAPE), 2, seeds=seeds.tolist())
    assert_images_agree(images, expected, precision, model.network, atol=5e-3, rtol=2e-3)
    with pytest.raises(AssertionError):
        assert_images_agree(images.roll(1, 0), expected, precision, model.network, atol=0.1, rtol=0)
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["pairs.json", *(f"pairs_0000{i}.npz" for i in range(3))]


def test_the_longest_are_dropped(teacher, tmp_path, monkeypatch):
    assert call(making, monkeypatch, *flags(teacher, tmp_path / "p")) == 0
    images, seeds = pairs.load_pairs(tmp_path / "p")
    noise = draw_noise((10, *SHAPE), CPU, seeds.tolist()).numpy()
    distance = np.sqrt(((images.astype(np.float32) - noise) ** 2).sum(axis=(1, 2, 3)))
    kept_images, kept = pairs.load_pairs(tmp_path / "p", drop_longest=0.3)
    assert kept.tolist() == [seed for seed, d in zip(seeds, distance, strict=True) if d < np.sort(distance)[7]]
    assert np.array_equal(kept_images, images[np.isin(seeds, kept)])
    assert pairs.describe_pairs(tmp_path / "p", 0.3) != pairs.describe_pairs(tmp_path / "p")
    with pytest.raises(UserError, match="drop_longest 1: expected a share from 0 to below 1"):
        pairs.load_pairs(tmp_path / "p", drop_longest=1.0)


def test_a_killed_making_goes_on_where_it_was(teacher, tmp_path, monkeypatch, capsys):
    """Killed in the second file: the first is not made again, and what comes out is what was never killed."""
    assert call(making, monkeypatch, *flags(teacher, tmp_path / "whole")) == 0
    make = making.make_pairs
    calls = []

    def killed(*args):
        calls.append(len(args[3]))
        if len(calls) == 4:
            (tmp_path / "p" / ".pairs_00001.npz.1.partial").write_bytes(b"half")
            raise KeyboardInterrupt
        return make(*args)

    monkeypatch.setattr(making, "make_pairs", killed)
    assert call(making, monkeypatch, *flags(teacher, tmp_path / "p")) == 130
    with pytest.raises(UserError, match=r"holds 4 of its 10 pairs"):
        pairs.load_pairs(tmp_path / "p")
    monkeypatch.setattr(making, "make_pairs", make)
    calls = counted(monkeypatch)
    capsys.readouterr()
    assert call(making, monkeypatch, *flags(teacher, tmp_path / "p")) == 0
    assert "4 of 10 pairs are there" in capsys.readouterr().out and sum(calls) == 6
    for mine, whole in zip(pairs.load_pairs(tmp_path / "p"), pairs.load_pairs(tmp_path / "whole"), strict=True):
        assert np.array_equal(mine, whole)
    assert not list((tmp_path / "p").glob(".*"))
    calls.clear()
    assert call(making, monkeypatch, *flags(teacher, tmp_path / "p")) == 0 and calls == []


@BOTH_PRECISIONS
def test_a_folder_is_the_beginning_of_an_endless_list(teacher, tmp_path, monkeypatch, precision):
    assert call(making, monkeypatch, *flags(teacher, tmp_path / "whole", 10, 2, "--precision", precision)) == 0
    calls = counted(monkeypatch)
    for count, made in ((6, 6), (10, 4), (5, 0), (7, 0)):
        calls.clear()
        assert call(making, monkeypatch, *flags(teacher, tmp_path / "p", count, 2, "--precision", precision)) == 0
        assert sum(calls) == made
        images, seeds = pairs.load_pairs(tmp_path / "p")
        whole_images, whole_seeds = pairs.load_pairs(tmp_path / "whole")
        assert np.array_equal(seeds, whole_seeds[:count])
        assert_equal_pairs(images, whole_images[:count], precision)


def test_a_damaged_file_is_named_and_made_again(teacher, tmp_path, monkeypatch, capsys):
    assert call(making, monkeypatch, *flags(teacher, tmp_path / "p")) == 0
    before = pairs.load_pairs(tmp_path / "p")
    file = tmp_path / "p" / "pairs_00001.npz"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"pairs_00001\.npz: damaged"):
        pairs.load_pairs(tmp_path / "p")
    calls = counted(monkeypatch)
    assert call(making, monkeypatch, *flags(teacher, tmp_path / "p")) == 0
    assert "pairs_00001.npz: damaged" in capsys.readouterr().out and sum(calls) == 4
    assert all(np.array_equal(a, b) for a, b in zip(before, pairs.load_pairs(tmp_path / "p"), strict=True))


def test_other_pairs_in_the_folder_are_refused(teacher, tmp_path, monkeypatch, capsys):
    assert call(making, monkeypatch, *flags(teacher, tmp_path / "p")) == 0
    capsys.readouterr()
    refused = lambda *args: fails(making, monkeypatch, capsys, *args)  # noqa: E731
    assert "holds other pairs: steps 2 there, 3 here; choose another --out" in refused(*flags(teacher, tmp_path / "p", 10, 3))
    assert "seed 0 there, 1 here" in refused(*flags(teacher, tmp_path / "p", 10, 2, "--seed", 1))
    other = make_teacher(tmp_path / "other", "edm")
    assert "'method': 'rectified_flow'" in refused(*flags(other, tmp_path / "p")), "equal weights, another model"
    state = torch.load(other / "last.ckpt", weights_only=True)
    torch.save({"state_dict": {key: value + 1 for key, value in state["state_dict"].items()}}, other / "last.ckpt")
    assert "teacher_sha256 " in refused(*flags(other, tmp_path / "p"))
    silent = make_teacher(tmp_path / "silent", says_shape=False)
    assert "image_shape [3, 16, 16] there, [3, 32, 32] here" in refused(
        *flags(silent, tmp_path / "p", 10, 2, "--image_size", 32)
    )


def test_a_teacher_that_is_not_there_or_of_another_resolution(teacher, tmp_path, monkeypatch, capsys):
    refused = lambda *args: fails(making, monkeypatch, capsys, *args)  # noqa: E731
    assert "no checkpoint at" in refused(*flags(tmp_path / "absent", tmp_path / "p"))
    assert "was trained on images of shape (3, 16, 16); here they are (3, 32, 32)" in refused(
        *flags(teacher, tmp_path / "p", 10, 2, "--image_size", 32)
    )
    silent = make_teacher(tmp_path / "silent", says_shape=False)
    assert "give --image_size" in refused(*flags(silent, tmp_path / "p"))
    assert not (tmp_path / "p").exists()
    assert call(making, monkeypatch, *flags(silent, tmp_path / "p", 4, 2, "--image_size", 16)) == 0


@BOTH_PRECISIONS
def test_a_folder_keeps_its_precision(teacher, tmp_path, monkeypatch, capsys, precision):
    """Added to where auto means the other one, the pairs are those of one making; another precision is refused by name."""
    named, auto = ["--precision", precision], {"fp32": "bf16", "bf16": "fp32"}[precision]
    assert call(making, monkeypatch, *flags(teacher, tmp_path / "whole", 10, 2, *named)) == 0
    assert call(making, monkeypatch, *flags(teacher, tmp_path / "p", 3, 2, *named)) == 0
    monkeypatch.setenv("CHALLENGE_PRECISION", auto)
    assert call(making, monkeypatch, *flags(teacher, tmp_path / "p")) == 0
    for mine, whole in zip(pairs.load_pairs(tmp_path / "p"), pairs.load_pairs(tmp_path / "whole"), strict=True):
        assert np.array_equal(mine, whole)
    capsys.readouterr()
    assert "holds other pairs: precision " in fails(
        making, monkeypatch, capsys, *flags(teacher, tmp_path / "p", 10, 2, "--precision", auto)
    )


@BOTH_PRECISIONS
def test_two_processes_make_the_pairs_of_one(teacher, tmp_path, monkeypatch, precision):
    """Files of four pairs: the first process makes one of them, the second two."""
    named = ["--precision", precision]
    assert call(making, monkeypatch, *flags(teacher, tmp_path / "one", 10, 2, *named)) == 0
    code = (
        "from src.datasets import pairs; from src.datasets.pairs import __main__ as making; "
        "from src.common.cli import run_script; pairs.SHARD = making.SHARD = 4; run_script(making.main)"
    )
    several_pythons(2, PROJECT_ROOT, "-c", code, *flags(teacher, tmp_path / "two", 10, 2, *named))
    one, two = pairs.load_pairs(tmp_path / "one"), pairs.load_pairs(tmp_path / "two")
    assert np.array_equal(one[1], two[1])
    assert_equal_pairs(one[0], two[0], precision)
