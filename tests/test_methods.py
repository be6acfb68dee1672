import json
import math

import pytest
import torch

from custom_model import create_custom_model
from src.challenges.toon.drawing import reduced, toon_faces
from src.common.checkpoints import save_model
from src.methods import get_method, method_names
from src.methods.shared import AverageVelocityModel
from src.network import UNet
from src.training.config import TrainingConfig
from src.training.loop import Trainer
from tests import shipped
from tests.helpers import SHAPE, TINY, slow_but, tiny_model
from tests.methods import battery, oracles_flow

OWN = [name for name in method_names() if name not in shipped.METHODS]  # a reader's method: nothing of it is slow
# custom and reflow repeat what rectified_flow has
OTHERS = slow_but([name for name in method_names() if name not in ("custom", "reflow")], method_names())
CHECKS = [
    battery.check_ends_of_forward_process,
    battery.check_oracle_step,
    battery.check_training_times,
    battery.check_number_of_calls,
    battery.check_nfe_differ,
    battery.check_seeds,
    battery.check_trajectory,
    battery.check_unknown_keywords,
    battery.check_loss,
    battery.check_condition,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("method", OTHERS)
def test_battery(method, check):
    check(lambda: tiny_model(method))


@pytest.mark.parametrize("check", [battery.check_bfloat16_images, battery.check_bfloat16_loss])
@pytest.mark.parametrize("method", slow_but(["rectified_flow", "gdd", *OWN], method_names()))
def test_in_bfloat16(method, check):
    check(lambda: tiny_model(method))


@pytest.mark.parametrize("method", [name for name in method_names() if issubclass(get_method(name), AverageVelocityModel)])
def test_jumps(method):
    """With a network that knows every jump 1, 2 and 4 steps are exact, for images and for points; and points train."""
    for shape in ((4, *SHAPE), (4, 2)):
        oracles_flow.check_exact_samples(method, shape)
    oracles_flow.check_points(method)


@pytest.mark.parametrize("method", OTHERS)
def test_save_and_load(method, tmp_path):
    battery.check_save_and_load(lambda: tiny_model(method), create_custom_model, {"method": method, **TINY}, tmp_path)


@pytest.mark.parametrize("method", OTHERS)
def test_noise_of_the_loop(method, tmp_path):
    battery.check_noise_of_the_loop(lambda: tiny_model(method), tmp_path)


@pytest.mark.parametrize("method", slow_but(["custom", "gdd", *OWN], method_names()))
def test_checkpoint_is_average(method, tmp_path):
    battery.check_checkpoint_is_average(lambda: tiny_model(method), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in method_names() if name != "custom"])
def test_the_full_network(method, tmp_path):
    """On small toon faces, through train.py's loop, which knows no method: every weight that learns moves, no other does, and
    all three NFE give images. The checkpoint is as large as the network's, to 1 %."""
    model = create_custom_model(method=method)
    if model.needs_teacher:
        model.set_teacher(create_custom_model(method="edm"))
    learning = {id(parameter) for parameters in model.optim_groups().values() for parameter in parameters}
    before = [parameter.detach().clone() for parameter in model.parameters()]
    config = TrainingConfig(batch_size=2, num_iterations=4, lr_warmup=0, log_interval=2)
    faces = reduced(toon_faces(16, seed=1), 16)
    Trainer(model, faces, config, {"method": method}, tmp_path, torch.device("cpu"), previews=battery.PREVIEWS).run()
    for (name, new), old in zip(model.named_parameters(), before, strict=True):
        assert torch.equal(old, new) != (id(new) in learning), name
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted({2, 4, *model.milestones(4)})
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert (tmp_path / "previews" / "step_0000004.png").exists()
    save_model(torch.nn.ModuleDict({"network": model.network}), tmp_path / "network.pt", {}, tmp_path / "network.json")
    assert (tmp_path / "last.ckpt").stat().st_size == pytest.approx((tmp_path / "network.pt").stat().st_size, rel=0.01)


@pytest.mark.parametrize("method", OTHERS)
def test_what_is_handed_in_is_the_network(method):
    """The full model's state is within 1 % of a rectified flow's with the same network, in bytes."""
    states = []
    for name in (method, "rectified_flow"):
        with torch.device("meta"):
            model = get_method(name).from_options(UNet(use_additional_condition=bool(get_method(method).needs_condition)))
        states.append(sum(value.nbytes for value in model.state_dict().values()))
    assert states[0] == pytest.approx(states[1], rel=0.01)


def test_every_method_of_the_kit_explains_its_options():
    for name in shipped.METHODS:
        cls = get_method(name)
        for field in cls.Config.__dataclass_fields__.values():
            assert field.metadata.get("help"), f"{name}: option {field.name} has no help text"


def test_unknown_method_names_the_valid_ones():
    with pytest.raises(ValueError, match=r"'flow'.*custom, .*rectified_flow"):
        get_method("flow")
