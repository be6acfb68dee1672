import json
import math
import shlex
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from src.common.cli import UserError
from src.runs.curves import draw_curves
from src.training import saving
from src.training.batches import Batches
from src.training.config import TrainingConfig, learning_rate
from src.training.ema import EMA
from src.training.loop import Trainer
from src.training.resume import read_resume
from src.training.saving import TrainingState
from tests.helpers import BOTH_PRECISIONS, random_images, tiny_model
from tests.methods.battery import run_loop

CPU = torch.device("cpu")


def weights(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def test_a_run_leaves_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "draw_curves", draw_curves)
    run_loop(tiny_model(), tmp_path, steps=5, save_interval=2)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        "last.ckpt",
        "model_config.json",
        "training_config.json",
        "resume.pt",
        "resume_previous.pt",
        "log.jsonl",
        "training_curves.png",
        "previews/step_0000002.png",
        "previews/step_0000004.png",
        "previews/step_0000005.png",
    }
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["step"], row["images_seen"]) for row in rows] == [(2, 16), (4, 32), (5, 40)]
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 and row["images_per_second"] > 0 for row in rows)
    config = json.loads((tmp_path / "training_config.json").read_text())
    assert config["batch_size"] == 8 and config["num_training_images"] == 32 and config["torch"] == torch.__version__
    assert config["command"] == shlex.join(sys.argv)
    sheet = Image.open(tmp_path / "previews" / "step_0000005.png")
    assert sheet.height == 3 * 2 * 16
    assert np.asarray(Image.open(tmp_path / "training_curves.png")).std() > 5


def test_early_previews(tmp_path, monkeypatch):
    """They are drawn at their steps until the first save, and change neither the weights nor what is measured."""
    for name, early in (("plain", {}), ("early", {1, 3, 4})):
        monkeypatch.setattr("src.training.due.EARLY_PREVIEWS", early)
        run_loop(tiny_model(), tmp_path / name, steps=4, save_interval=4)
        monkeypatch.undo()
    names = [path.name for path in sorted((tmp_path / "early" / "previews").iterdir())]
    assert names == ["step_0000001.png", "step_0000003.png", "step_0000004.png"]
    plain, early = weights(tmp_path / "plain"), weights(tmp_path / "early")
    assert all(torch.equal(plain[key], early[key]) for key in plain)
    rows = [json.loads(line) for line in (tmp_path / "early" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


def test_logged_loss_is_the_mean_of_the_losses(tmp_path):
    model = tiny_model()
    losses = []
    compute_loss = model.compute_loss
    model.compute_loss = lambda *args, **kwargs: losses.append(compute_loss(*args, **kwargs)) or losses[-1]
    run_loop(model, tmp_path, steps=4, log_interval=4)
    (row,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert row["loss"] == pytest.approx(torch.stack(losses).mean().item())


def test_it_learns(tmp_path):
    """Eighty steps on constant images bring the loss to a fraction, and the samples to the images' colour."""
    model = tiny_model("rectified_flow")
    images = np.full((16, 3, 16, 16), 200, dtype=np.uint8)
    config = TrainingConfig(batch_size=8, num_iterations=80, lr=6e-3, lr_warmup=5, log_interval=10, save_interval=1000)
    Trainer(model, images, config, {}, tmp_path, CPU).run()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.3 * rows[0]["loss"]
    model.eval()
    samples = model.sample((8, 3, 16, 16), num_inference_timesteps=4, seeds=range(8))
    assert abs(samples.mean().item() - (200 / 127.5 - 1)) < 0.15


@BOTH_PRECISIONS
def test_resumed_run_is_the_uninterrupted_one(tmp_path, precision):
    run_loop(tiny_model(), tmp_path / "whole", steps=7, precision=precision)
    run_loop(tiny_model(), tmp_path / "parts", steps=3, precision=precision)
    run_loop(tiny_model(), tmp_path / "parts", steps=7, precision=precision, resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 3, 4, 6, 7]


def test_damaged_or_foreign_resume_is_named(tmp_path):
    run_loop(tiny_model(), tmp_path, steps=2)
    state = TrainingState(tiny_model(ch=16), {}, EMA(tiny_model(ch=16)))
    with pytest.raises(UserError, match=r"resume\.pt is not of this model"):
        state.load(read_resume(tmp_path), tmp_path)
    (tmp_path / "resume.pt").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"nothing to continue from.*resume\.pt: "):
        read_resume(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    model = tiny_model()
    compute_loss = model.compute_loss
    model.compute_loss = lambda *args, step, **kwargs: compute_loss(*args, **kwargs) * (math.nan if step == 5 else 1)
    with pytest.raises(UserError, match=r"not finite at step 5 .*last good checkpoint is of step 4"):
        run_loop(model, tmp_path, steps=8, save_interval=4)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values()), "last.ckpt is the good one of step 4"


def test_two_groups_have_their_own_losses_and_steps(tmp_path):
    """A method with an adversary: a group's step moves its own parameters alone; train-only ones stay out of the file."""
    model = tiny_model()
    critic = torch.nn.Linear(3 * 16 * 16, 1)
    model.train_only = {"critic": critic}
    model.optim_groups = lambda: {"network": model.network.parameters(), "critic": critic.parameters()}
    seen = []

    def compute_loss(data, noise, *, group, **kwargs):
        seen.append((group, critic.weight.detach().clone(), model.network.head.weight.detach().clone()))
        score = critic((noise + model.network(noise, torch.zeros(len(data)))).flatten(1)).mean()
        return -score if group == "network" else score + critic.weight.square().sum()

    model.compute_loss = compute_loss
    run_loop(model, tmp_path, steps=2)
    assert [group for group, _, _ in seen] == ["network", "critic"] * 2
    assert torch.equal(seen[0][1], seen[1][1]) and not torch.equal(seen[0][2], seen[1][2])
    assert not torch.equal(seen[1][1], seen[2][1]) and torch.equal(seen[1][2], seen[2][2])
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert {"loss", "loss_critic", "grad_norm", "grad_norm_critic"} <= set(row)
    assert not any("critic" in name for name in weights(tmp_path))
    assert "critic" in torch.load(tmp_path / "resume.pt", weights_only=True)["train_only"]


def test_a_group_has_its_own_learning_rate_and_betas(tmp_path):
    """Adam's first step is the learning rate in size; its betas are those the method gives."""
    model = tiny_model()
    head, tail = model.network.head.weight, model.network.tail[-1].weight
    model.optim_groups = lambda: {"network": [head], "tail": [tail]}
    model.lr_scale = lambda group: {"network": 1.0, "tail": 0.25}[group]
    model.betas = lambda group: {"network": (0.9, 0.999), "tail": (0.0, 0.99)}[group]
    before = head.detach().clone(), tail.detach().clone()
    run_loop(model, tmp_path, steps=1, lr=1e-2)
    steps = [(new - old).abs().median().item() for new, old in zip((head, tail), before, strict=True)]
    assert steps == pytest.approx([1e-2, 0.25e-2], rel=1e-3)
    saved = read_resume(tmp_path)["optimizers"]
    assert [tuple(saved[name]["param_groups"][0]["betas"]) for name in ("network", "tail")] == [(0.9, 0.999), (0.0, 0.99)]
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["lr"] == 1e-2


def test_zero_iterations_save_the_untrained_model(tmp_path):
    model = tiny_model()
    run_loop(model, tmp_path, steps=0)
    assert all(torch.equal(weights(tmp_path)[name], value) for name, value in model.state_dict().items())


def test_gradient_clipping(tmp_path):
    """The optimizer gets gradients of the clipped norm; the logged norm is that before clipping."""
    model = tiny_model()
    norms = []
    model.on_step_end = lambda step, total: norms.append(
        math.sqrt(sum(p.grad.square().sum().item() for p in model.network.parameters()))
    )
    run_loop(model, tmp_path, steps=2, grad_clip=0.01)
    assert all(norm == pytest.approx(0.01, rel=1e-3) for norm in norms)
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["grad_norm"] > 0.1


def test_learning_rate_warms_up():
    config = TrainingConfig(lr=2e-4, lr_warmup=4)
    assert [learning_rate(step, config) for step in (1, 2, 4, 5, 1000)] == pytest.approx([5e-5, 1e-4, 2e-4, 2e-4, 2e-4])
    assert learning_rate(1, TrainingConfig(lr=2e-4, lr_warmup=0)) == 2e-4


def test_ema_half_life():
    """A weight that leaves at step n has half its share after half_life * n more steps; half_life 0 follows the weights."""
    model = torch.nn.Linear(1, 1, bias=False)
    for half_life in (0.05, 0.1):
        torch.nn.init.ones_(model.weight)
        ema = EMA(model, [half_life])
        (average,) = ema.averages[half_life]
        torch.nn.init.zeros_(model.weight)
        average.fill_(1.0)
        first, last = 10000, round(10000 * (1 + half_life))
        for step in range(first, last):
            ema.update(step)
        assert average.item() == pytest.approx(0.5, abs=0.02)
    ema = EMA(model, [0.0])
    model.weight.data.fill_(3.0)
    ema.update(1)
    assert ema.averages[0.0][0].item() == 3.0
    with pytest.raises(ValueError, match="half-lives"):
        EMA(model, [-1])


def test_batches_show_every_image_once_an_epoch():
    images = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None, None, None], (10, 3, 4, 4))
    batches = Batches(images, 4, seed=0, device=CPU, flip=False)
    seen = torch.cat([batches[number] for number in range(10)])[:, 0, 0, 0].mul(127.5).add(127.5).round().int().tolist()
    epochs = [seen[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert torch.equal(Batches(images, 4, 0, CPU, False)[7], batches[7]), "a batch follows from seed and number alone"
    assert not torch.equal(Batches(images, 4, 1, CPU, False)[7], batches[7])


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match="--batch_size 8 is larger than the data set of 3 images"):
        Batches(random_images(3), 8, seed=0, device=CPU)


def test_rows_of_a_batch_are_its_rows():
    """Also where the batch, or the part of it, reaches into the next epoch."""
    batches = Batches(random_images(10), 8, seed=0, device=CPU)
    for number in range(4):
        for rows in (slice(0, 3), slice(3, 8), slice(7, 8)):
            assert torch.equal(Batches(random_images(10), 8, 0, CPU).rows(number, rows), batches[number][rows])


def test_flip_mirrors_about_half():
    image = np.zeros((50, 3, 4, 4), dtype=np.uint8)
    image[..., 0] = 255
    left = torch.cat([Batches(image, 50, 0, CPU)[number][:, 0, 0, 0] for number in range(20)])
    assert 0.45 < (left > 0).float().mean() < 0.55
    assert (Batches(image, 50, 0, CPU, flip=False)[0][:, 0, 0, 0] == 1).all()
