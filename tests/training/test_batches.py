"""Training on pairs: each image keeps its own noise, whatever the order, the mirroring and the interruptions."""

import json

import numpy as np
import pytest
import torch

import train
from src.challenges import get_challenge
from src.challenges.shared.training_data import development_split
from src.common.devices import PRECISIONS
from src.common.noise import draw_noise, image_seeds
from src.datasets.pairs import __main__ as making
from src.training.batches import Batches
from src.training.config import TrainingConfig
from src.training.loop import Trainer
from tests.helpers import BOTH_PRECISIONS, FACES_FLAGS, SHAPE, call, fails, parsed, tiny_model
from tests.training.runs import CPU, equal, weights


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Runs without previews and curves, which take most of the time of a short one."""
    monkeypatch.setattr("src.training.writing.draw_curves", lambda *args: None)


def half_noise(count=10, shape=SHAPE):
    """Images that are half their noise, so that any confusion shows, and the noises' seeds."""
    seeds = image_seeds(3, 0, count)
    return (draw_noise((count, *shape), CPU, seeds) / 2).half().numpy(), np.array(seeds)


@pytest.mark.parametrize("flip", [True, False])
def test_noise_is_that_of_its_image(flip):
    """In every epoch and where a batch reaches into the next; mirrored with its image."""
    images, seeds = half_noise()
    batches = Batches(images, 4, seed=0, device=CPU, flip=flip, noise_seeds=seeds)
    plain = draw_noise((10, *SHAPE), CPU, seeds.tolist())
    mirrored = 0
    for number in range(10):
        for rows in (slice(0, 4), slice(0, 2), slice(2, 4)):
            data, noise = batches.rows(number, rows), batches.noise(number, rows)
            assert data.dtype == noise.dtype == torch.float32
            torch.testing.assert_close(data, noise / 2, atol=2e-3, rtol=0)
        mirrored += sum(not (row == plain).flatten(1).all(dim=1).any() for row in batches.noise(number, slice(0, 4)))
    assert 8 < mirrored < 32 if flip else mirrored == 0
    assert not torch.equal(batches.rows(0, slice(0, 4)), batches.rows(5, slice(0, 4)))


def trainer(folder, seen=None, precision="fp32", **settings):
    model = tiny_model("reflow", dropout=0.1)
    images, seeds = half_noise(12)
    compute_loss = model.compute_loss

    def recording(data, noise, **kwargs):
        seen.append((data, noise))
        return compute_loss(data, noise, **kwargs)

    if seen is not None:
        model.compute_loss = recording
    options = {"batch_size": 4, "num_iterations": 6, "lr": 1e-3, "lr_warmup": 0, "log_interval": 2, **settings}
    config = TrainingConfig(**options)
    return Trainer(model, images, config, {}, folder, CPU, PRECISIONS[precision], noise_seeds=seeds)


@pytest.mark.slow
@BOTH_PRECISIONS
def test_the_loss_gets_the_pairs_and_a_resumed_run_the_same(tmp_path, precision):
    seen = []
    trainer(tmp_path / "whole", seen, precision).run()
    assert len(seen) == 6 and all(torch.allclose(data, noise / 2, atol=2e-3) for data, noise in seen)
    trainer(tmp_path / "parts", precision=precision, num_iterations=3).run()
    trainer(tmp_path / "parts", precision=precision).run(resume=True)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_micro_batches_have_the_pairs_of_the_whole_batch(tmp_path):
    whole, parts = [], []
    trainer(tmp_path / "whole", whole, num_iterations=2).run()
    trainer(tmp_path / "parts", parts, num_iterations=2, micro_batch=1).run()
    for all_rows, rows in zip(zip(*whole, strict=True), zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(all_rows), torch.cat(rows))


# -------------------------------------------------------------------------------------------------- through train.py


@pytest.fixture
def made(toon, tmp_path, monkeypatch):
    """A rectified flow of toon faces, and twelve pairs of it."""
    flags = [*FACES_FLAGS, "--challenge", "toon", "--batch_size", 4, "--num_iterations", 0, "--save_dir", tmp_path]
    assert call(train, monkeypatch, *flags, "--method", "rectified_flow", "--run_name", "teacher") == 0
    make = ["--teacher", tmp_path / "teacher", "--count", 12, "--steps", 1, "--device", "cpu"]
    assert call(making, monkeypatch, *make, "--out", tmp_path / "pairs") == 0
    return tmp_path


REFLOW = [*FACES_FLAGS, "--method", "reflow", "--batch_size", 4, "--num_iterations", 2, "--lr_warmup", 0]


def test_reflow_through_train(made, monkeypatch, capsys):
    """No real image is needed; a continued run knows its pairs, and refuses others."""
    flags = [*REFLOW, "--save_dir", made, "--data_root", "nowhere"]
    run = made / "r"
    assert call(train, monkeypatch, *flags, "--pairs", made / "pairs", "--init_from", made / "teacher", "--run_name", "r") == 0
    assert "reflow: " in (printed := capsys.readouterr().out) and "12 pairs" in printed
    size, base = ((folder / "last.ckpt").stat().st_size for folder in (run, made / "teacher"))
    assert abs(size / base - 1) < 0.01
    told = json.loads((run / "training_config.json").read_text())
    assert (
        told["pairs"] == str(made / "pairs") and told["num_training_images"] == 12 and "1 steps, seed 0" in told["trained_on"]
    )
    assert call(train, monkeypatch, "--resume", run, "--num_iterations", 3, "--device", "cpu") == 0
    assert torch.load(run / "resume.pt", weights_only=True)["step"] == 3
    capsys.readouterr()
    line = fails(train, monkeypatch, capsys, "--resume", run, "--device", "cpu", "--pairs", made / "pairs", 0.25)
    assert "cannot be continued with other settings: trained on 12 pairs" in line and "longest 0.25 left out here" in line
    assert call(train, monkeypatch, *flags, "--pairs", made / "pairs", 0.25, "--run_name", "s") == 0
    assert json.loads((made / "s" / "training_config.json").read_text())["num_training_images"] == 9


def test_pairs_that_are_not_there(made, monkeypatch, capsys):
    refused = lambda *flags: fails(train, monkeypatch, capsys, *REFLOW, "--save_dir", made / "r", *flags)  # noqa: E731
    capsys.readouterr()
    assert "learns from pairs of noise and image: make them with" in refused()
    assert f"no pairs at {made / 'nowhere'}: make them with python -m src.datasets.pairs" in refused(
        "--pairs", made / "nowhere"
    )
    assert "no pairs at" in refused("--pairs", made / "teacher")
    (made / "pairs" / "pairs_00000.npz").rename(made / "moved")
    assert "holds 0 of its 12 pairs" in refused("--pairs", made / "pairs")
    (made / "pairs" / "pairs.json").write_text("{}")
    assert "is not of pairs" in refused("--pairs", made / "pairs")
    assert not (made / "r").exists()


def test_development_images_are_real(made, monkeypatch, capsys):
    options = parsed([*REFLOW, "--pairs", made / "pairs", "--challenge", "toon", "--dev_images", 5]).data
    data = options.load(get_challenge("toon"), 5)
    images, seeds, development = data.images, data.noise_seeds, data.development
    real = get_challenge("toon").load("train", "")[0]
    assert images.dtype == np.float16 and len(images) == len(seeds) == 12
    assert np.array_equal(development, real[development_split(len(real), 5)[1]])
    make = ["--teacher", made / "teacher" / "last.ckpt", "--count", 4, "--steps", 1, "--device", "cpu", "--image_size", 16]
    (made / "teacher" / "training_config.json").unlink()
    assert call(making, monkeypatch, *make, "--out", made / "small") == 0
    capsys.readouterr()
    flags = [*REFLOW, "--challenge", "toon", "--pairs", made / "small", "--dev_images", 5, "--save_dir", made / "r"]
    assert "images of shape (3, 16, 16); those of --dev_images are (3, 64, 64)" in fails(train, monkeypatch, capsys, *flags)
