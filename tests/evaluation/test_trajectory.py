"""The figure of samples on their way: of every method, states and denoised data."""

import numpy as np
import pytest
import torch
from PIL import Image

from src.common.cli import UserError
from src.evaluation.trajectory import __main__ as command
from src.evaluation.trajectory import equally_spaced, trajectory
from src.methods import method_names
from src.training.config import TrainingConfig
from src.training.loop import Trainer
from tests.helpers import SHAPE, call, fails, random_images, tiny_model
from tests.methods.test_labels import labelled_model

SEEDS = [5, 6]
STEPS = 8
CHOICES = {"in turn": None, "the same": [1, 2], "another second": [1, 5]}


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("what", ["state", "denoised"])
def test_every_method_shows_its_way(method, what):
    model = tiny_model(method)
    shape = (2, *SHAPE)
    columns = trajectory(model, shape, STEPS, SEEDS, 4, what)
    assert [tuple(column.shape) for column in columns] == [shape] * 4
    assert all(torch.isfinite(column).all() for column in columns)
    images = model.sample(shape, num_inference_timesteps=STEPS, seeds=SEEDS)
    last = columns[-1] * (images.square().mean().sqrt().clamp(min=1) if what == "state" else 1)
    torch.testing.assert_close(last, images)
    if what == "state":
        assert 0.8 < columns[0].std() < 1.2, "the first state is noise, whatever its scale"
    assert not torch.allclose(columns[0], columns[1])


@pytest.mark.parametrize(("method", "options"), [("rectified_flow", {}), ("ddpm", {}), ("edm", {"solver": "heun"})])
def test_denoised_data_are_what_the_method_expects(method, options):
    """Of methods that can be teachers: Method.denoised at the state as data + sigma noise."""
    model, shape = tiny_model(method, **options), (2, *SHAPE)
    states = model.sample(shape, num_inference_timesteps=STEPS, return_traj=True, seeds=SEEDS)
    grid = model.time_grid(STEPS)
    columns = trajectory(model, shape, STEPS, SEEDS, len(states), "denoised")
    at = len(states) // 2
    t = grid[at]
    if method == "rectified_flow":
        signal, noise = t, 1 - t
    elif method == "ddpm":
        signal, noise = (value.flatten() for value in model.scheduler.signal_and_noise(t[None], torch.zeros(1)))
    else:
        signal, noise = torch.tensor(1.0), t
    expected = model.denoised(states[at] / signal, (noise / signal).expand(2).clone())
    torch.testing.assert_close(columns[at], expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("what", ["state", "denoised"])
@pytest.mark.parametrize("method", ["rectified_flow", "progressive", "gdd"])
def test_classes_on_their_way(method, what):
    """Every moment is that of the class: in turn by default, or of the classes that are named."""
    model, shape = labelled_model(method), (2, *SHAPE)
    found = {name: trajectory(model, shape, 4, SEEDS, 4, what, classes) for name, classes in CHOICES.items()}
    for column, (usual, named, other) in enumerate(zip(*found.values(), strict=True)):
        torch.testing.assert_close(usual, named)
        differ = (other - usual).abs().flatten(1).mean(dim=1)
        same = 0.05 if what == "state" else 1e-4  # states are shown on the scale of the batch
        assert differ[0] < same and (differ[1] > 2 * differ[0] + 1e-3 or (what == "state" and column == 0))


def test_models_that_do_not_tell():
    class Silent(torch.nn.Module):
        def sample(self, shape, num_inference_timesteps=20, return_traj=False, verbose=False):
            return torch.zeros(shape)

    with pytest.raises(UserError, match="no list of states"):
        trajectory(Silent(), (2, *SHAPE), 4, SEEDS, 3)

    class Timeless(Silent):
        def sample(self, shape, num_inference_timesteps=20, return_traj=False, verbose=False):
            return [torch.zeros(shape)] * (num_inference_timesteps + 1)

    assert len(trajectory(Timeless(), (2, *SHAPE), 4, SEEDS, 3)) == 3
    with pytest.raises(UserError, match="no time_grid"):
        trajectory(Timeless(), (2, *SHAPE), 4, SEEDS, 3, "denoised")


@pytest.fixture
def run(tmp_path):
    config = TrainingConfig(batch_size=4, num_iterations=1)
    options = {"method": "custom", "challenge": "simpsons32", "ch": 8, "ch_mult": [1, 2], "attn": [1], "num_res_blocks": 1}
    images = random_images(8, shape=(3, 32, 32))
    Trainer(tiny_model(), images, config, options, tmp_path / "run", torch.device("cpu")).run()
    return tmp_path / "run"


@pytest.mark.slow
def test_command(run, tmp_path, monkeypatch, capsys):
    for what in ("state", "denoised"):
        flags = ["--out", tmp_path / f"{what}.png", "--what", what, "--steps", 10, "--device", "cpu"]
        assert call(command, monkeypatch, run, *flags) == 0
    with Image.open(tmp_path / "state.png") as figure:
        assert figure.width == 8 * 120 and 8 * 120 < figure.height < 9 * 120
        states = np.asarray(figure.convert("RGB"))
    assert not np.array_equal(states, np.asarray(Image.open(tmp_path / "denoised.png").convert("RGB")))
    line = fails(command, monkeypatch, capsys, run, "--steps", 4, "--device", "cpu")
    assert line == "error: 4 steps have 5 states, fewer than the 8 to show: give more --steps"
    assert fails(command, monkeypatch, capsys, tmp_path / "absent")


def test_equally_spaced():
    assert equally_spaced(51, 8) == [0, 7, 14, 21, 29, 36, 43, 50] and equally_spaced(3, 3) == [0, 1, 2]
    with pytest.raises(UserError, match="2 steps have 3 states, fewer than the 4"):
        equally_spaced(3, 4)
