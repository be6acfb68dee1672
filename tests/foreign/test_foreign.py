"""Foreign models under the course's scripts and ours: the same images, for the same calls of the network."""

import pytest
import torch

from src.common.checkpoints import load_model
from src.common.cli import UserError
from src.common.devices import seed_everything
from src.common.noise import image_seeds
from src.common.sampling import generate
from src.network import UNet
from tests.foreign import FOREIGN, imported, lay_out
from tests.helpers import slow_but

NFES = (1, 2, 4)


@pytest.fixture(params=slow_but(["ddim_buffers", "package", "three_copies", "nan_at_four", "own_utils"], FOREIGN))
def foreign(request, tmp_path):
    """A foreign model's name, its hand-in, and its custom_model."""
    with imported(lay_out(tmp_path / "team", request.param)) as custom_model:
        yield request.param, tmp_path / "team", custom_model


@pytest.fixture
def calls(monkeypatch):
    """The numbers of images of all calls of any U-Net."""
    made, forward = [], UNet.forward

    def counted(self, x, *args, **kwargs):
        made.append(len(x))
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(UNet, "forward", counted)
    return made


def course_style(model, shape, nfe, seed):
    """Images (B, 3, 64, 64) by the course's own call."""
    seed_everything(seed)
    with torch.no_grad():
        return model.sample(shape, num_inference_timesteps=nfe, verbose=False)


def test_our_sampling_makes_the_images_of_the_courses_call(foreign, calls):
    """For the same seed and batch size, bit for bit, with one call an NFE; and a batch depends on none before it."""
    name, folder, custom_model = foreign
    model = load_model(folder / "checkpoints/best_model.pt", custom_model.create_custom_model).eval()
    for nfe in NFES:
        if name == "nan_at_four" and nfe == 4:
            with pytest.raises(UserError, match=r"not finite at NFE 4"):
                list(generate(model, (3, 64, 64), nfe, 2, 2, 42, torch.float32))
            continue
        calls.clear()
        images = list(generate(model, (3, 64, 64), nfe, 4, 2, 42, torch.float32))
        assert calls == [2] * (2 * nfe)
        for batch, first in zip(images, (0, 2), strict=True):
            assert torch.equal(batch, course_style(model, (2, 3, 64, 64), nfe, image_seeds(42, first, 1)[0]))
        [alone] = generate(model, (3, 64, 64), nfe, 2, 2, 42, torch.float32, first_sample=2)
        assert torch.equal(alone, images[1])


def test_the_courses_scripts_load_what_ours_load(foreign):
    """Its load_model and ours give the same model."""
    _, folder, custom_model = foreign
    import sys

    theirs = sys.modules["src.utils"].load_model(folder / "checkpoints/best_model.pt", custom_model.create_custom_model)
    ours = load_model(folder / "checkpoints/best_model.pt", custom_model.create_custom_model)
    for (name, mine), (other, value) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert name == other and torch.equal(mine, value)
