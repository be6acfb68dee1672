"""What the course of the digits uses: a plain EMA, AdamW, cosine annealing, affine maps, and scores beside the log."""

import json
import math

import numpy as np
import pytest
import torch

from src.common.cli import UserError
from src.common.figures import Figure
from src.common.files import load_torch
from src.runs.curves import draw_curves
from src.runs.folder import Run, note_sampling, sampled_from
from src.training.batches import Batches, random_affine
from src.training.config import TrainingConfig, learning_rate
from src.training.ema import EMA, decay
from src.training.ema import main as ema_command
from src.training.loop import Trainer
from tests.helpers import add_measured, random_images, tiny_model

CPU = torch.device("cpu")


def test_cosine_annealing():
    """Half a cosine over all steps, or over lr_decay of them; the warm-up before it."""
    whole = TrainingConfig(lr=1.0, lr_warmup=0, num_iterations=100, lr_schedule="cosine")
    for step in (1, 26, 51, 76, 100):
        assert learning_rate(step, whole) == pytest.approx(0.5 * (1 + math.cos(math.pi * (step - 1) / 100)))
    half = TrainingConfig(lr=1.0, lr_warmup=4, num_iterations=100, lr_schedule="cosine", lr_decay=0.5)
    assert [learning_rate(step, half) for step in (1, 4, 51)] == pytest.approx([0.25, 1, 1])
    assert learning_rate(76, half) == pytest.approx(0.5) and learning_rate(100, half) < 0.002
    with pytest.raises(ValueError, match="unknown lr_schedule 'stairs'"):
        TrainingConfig(lr_schedule="stairs")


def test_plain_average():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    ema = EMA(model, [0.05], decay=0.995)
    assert list(ema.averages) == ["decay_0.995", 0.05] and decay("decay_0.995", 7) == 0.995
    torch.nn.init.zeros_(model.weight)
    for step in range(1, 101):
        ema.update(step)
    assert ema.averages["decay_0.995"][0].item() == pytest.approx(0.995**100, rel=1e-4)
    with pytest.raises(ValueError, match="expected a decay from 0 to below 1, got 1"):
        EMA(model, [0.05], decay=1.0)


def test_a_run_with_a_plain_average(tmp_path, monkeypatch, capsys):
    """It is what last.ckpt holds, it goes on with the run, and the command lists and exports it."""
    settings = {
        "batch_size": 4,
        "lr": 1e-2,
        "lr_warmup": 0,
        "memory_format": "contiguous",
        "ema_decay": 0.5,
        "weight_decay": 0.1,
    }
    for steps, resume in ((3, False), (6, True)):
        config = TrainingConfig(num_iterations=steps, **settings)
        Trainer(tiny_model(), random_images(8), config, {}, tmp_path / "r", CPU).run(resume)
    Trainer(tiny_model(), random_images(8), config, {}, tmp_path / "whole", CPU).run()
    kept, whole = (load_torch(tmp_path / name / "last.ckpt") for name in ("r", "whole"))
    assert kept["step"] == 6
    assert all(torch.equal(kept["state_dict"][name], value) for name, value in whole["state_dict"].items())
    averages = load_torch(tmp_path / "r" / "resume.pt")["ema"]
    assert list(averages) == ["decay_0.5", "0.05"]
    name = "network.head.weight"
    assert torch.equal(kept["state_dict"][name], averages["decay_0.5"][name])
    monkeypatch.setattr("sys.argv", ["ema", str(tmp_path / "r"), "--export", "decay_0.5"])
    ema_command()
    assert torch.equal(load_torch(tmp_path / "r" / "ema_decay_0.5" / "last.ckpt")["state_dict"][name], kept["state_dict"][name])
    monkeypatch.setattr("sys.argv", ["ema", str(tmp_path / "r")])
    ema_command()
    assert "decay_0.5" in capsys.readouterr().out


def test_weight_decay_is_adamws(tmp_path):
    """It takes lr * weight_decay of a weight at each step, whatever its gradient."""
    ends = {}
    for amount in (0.0, 0.5):
        torch.manual_seed(0)
        model = tiny_model()
        before = model.network.head.weight.detach().clone()
        config = TrainingConfig(
            batch_size=4,
            num_iterations=1,
            lr=1e-2,
            lr_warmup=0,
            weight_decay=amount,
            ema_half_lives=[0],
            memory_format="contiguous",
        )
        Trainer(model, random_images(8), config, {}, tmp_path / str(amount), CPU).run()
        ends[amount] = load_torch(tmp_path / str(amount) / "last.ckpt")["state_dict"]["network.head.weight"]
    torch.testing.assert_close(ends[0.5] - ends[0.0], -0.5 * 1e-2 * before, atol=1e-6, rtol=1e-4)


# --------------------------------------------------------------------------------------------------------- affine maps


def test_affine_maps():
    image = torch.full((1, 1, 28, 28), -1.0)
    image[:, :, 12:16, 12:16] = 1.0
    none = torch.zeros(1, 4)
    torch.testing.assert_close(random_affine(image, none), image)

    def centre(images):
        bright = (images[0, 0] + 1).numpy()
        rows, columns = np.mgrid[:28, :28]
        return (bright * rows).sum() / bright.sum(), (bright * columns).sum() / bright.sum(), bright.sum()

    row, column, mass = centre(image)
    moved = centre(random_affine(image, torch.tensor([[0.0, 1.0, 0.0, 0.0]])))
    assert abs(moved[1] - column) == pytest.approx(0.07 * 28, abs=0.05) and moved[0] == pytest.approx(row, abs=0.01)
    larger = centre(random_affine(image, torch.tensor([[0.0, 0.0, 0.0, 1.0]])))
    assert larger[2] / mass == pytest.approx(1.1**2, rel=0.05)

    line = torch.full((1, 1, 29, 29), -1.0)
    line[:, :, 14, 4:25] = 1.0
    turned = random_affine(line, torch.tensor([[1.0, 0.0, 0.0, 0.0]]))[0, 0]
    ends = [turned[:, column].argmax().item() for column in (5, 23)]
    assert abs(ends[0] - ends[1]) == pytest.approx(18 * math.tan(math.radians(10)), abs=1.01)


def test_affine_batches_follow_from_seed_and_number():
    images = random_images(10)
    plain, mapped = Batches(images, 4, 0, CPU), Batches(images, 4, 0, CPU, affine=1.0)
    assert torch.equal(mapped[3], Batches(images, 4, 0, CPU, affine=1.0)[3])
    assert torch.equal(mapped.rows(3, slice(1, 3)), mapped[3][1:3])
    assert not torch.equal(mapped[0], plain[0]) and not torch.equal(mapped[0], Batches(images, 4, 1, CPU, affine=1.0)[0])
    assert (mapped[0] - plain[0]).abs().mean() > (Batches(images, 4, 0, CPU, affine=0.1)[0] - plain[0]).abs().mean()
    assert mapped[0].min() >= -1 and mapped[0].max() <= 1
    with pytest.raises(UserError, match="--affine would part images from the noise"):
        Batches(images, 4, 0, CPU, noise_seeds=np.arange(10), affine=1.0)
    with pytest.raises(UserError, match="--affine maps images"):
        Batches(np.zeros((10, 2), np.float32), 4, 0, CPU, flip=False, affine=1.0)


# ------------------------------------------------------------------------------------------------------ measured scores


def test_measurements_are_drawn_beside_the_log(tmp_path, monkeypatch):
    run = Run(tmp_path)
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, "images_seen": 8, "loss": 1.0}) + "\n")
    drawn = {}

    class Seen(Figure):
        def savefig(self, *args, **kwargs):
            drawn.clear()
            drawn.update({axis.get_title(): [line.get_label() for line in axis.lines] for axis in self.axes})
            super().savefig(*args, **kwargs)

    monkeypatch.setattr("src.runs.curves.Figure", Seen)

    def panels():
        draw_curves(run)
        return drawn

    assert list(panels()) == ["training loss"]
    for seen, fid in ((8, 30.0), (16, 20.0), (16, 19.0)):
        add_measured(run, {"nfe": 4, "images_seen": seen, "fid_pytorch": fid, "seed": 1, "options": {"eta": 1.0}})
    add_measured(run, {"nfe": 1, "images_seen": None, "fid_pytorch": 1.0})  # of no known step: not drawn
    add_measured(run, {"nfe": 2, "images_seen": 8, "fid_pytorch": 9.0, "guidance_scale": 7.5})
    curves = ["fid_pytorch, NFE 4, eta=1.0", "fid_pytorch, NFE 2, guidance scale 7.5"]
    assert panels()["measured by measure_fid.py"] == curves
    assert (tmp_path / "training_curves.png").read_bytes()[:4] == b"\x89PNG"


def test_what_made_a_folder_of_samples(tmp_path):
    entry = {"checkpoint": "/somewhere/last.ckpt", "nfe": 4, "num_samples": 12}
    note_sampling(tmp_path / "nfe=4", entry)
    note_sampling(tmp_path / "nfe=1", {**entry, "nfe": 1})
    assert sampled_from(tmp_path / "nfe=4", 12) == entry
    assert sampled_from(tmp_path / "nfe=4", 11) == {}, "the folder holds something else by now"
    assert sampled_from(tmp_path / "nfe=2", 12) == {} and sampled_from(tmp_path / "absent" / "nfe=2", 12) == {}
    (tmp_path / "sampling.json").write_text("[1]")
    assert sampled_from(tmp_path / "nfe=4", 12) == {}
