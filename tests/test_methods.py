import itertools
import json
import math
import re
from dataclasses import dataclass, fields

import pytest
import torch

from custom_model import create_custom_model
from src.challenges.toon.drawing import reduced, toon_faces
from src.common.checkpoints import save_model
from src.common.files import PROJECT_ROOT
from src.common.options import default_of
from src.methods import get_method, method_names
from src.methods.shared import (
    AverageVelocityModel,
    ConsistencyModel,
    DDIMModel,
    DiscriminatorOptions,
    DistanceOptions,
    Method,
    TeacherOptions,
    VelocityModel,
    WithDiscriminator,
    WithDistance,
)
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


@pytest.mark.parametrize("method", method_names())
def test_points(method):
    """Nothing assumes that samples are images: points train and are sampled, in batches of one and more."""
    model = create_custom_model(method=method, challenge="toy2d").train()
    if model.needs_teacher:
        model.set_teacher(create_custom_model(method="edm", challenge="toy2d"))
    for batch, group in itertools.product((1, 7), model.optim_groups()):
        assert torch.isfinite(model.compute_loss(*torch.randn(2, batch, 2), step=1, total_steps=10, group=group))
        assert model.sample((batch, 2), 2, seeds=range(batch)).shape == (batch, 2)


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


@pytest.mark.parametrize("method", method_names())
def test_options_have_bounds_and_are_held_once(method):
    """A value beyond a bound or the choices is refused, by its name; the scheduler's options are the method's own."""
    config = get_method(method).Config
    for item in fields(config):
        data, several = item.metadata, isinstance(default_of(item), list)
        beyond = [data[name] - 1 for name in ("minimum", "above") if name in data]
        beyond += [data[name] + 1 for name in ("maximum", "below") if name in data] + ["none of these"] * ("choices" in data)
        for value in beyond:
            with pytest.raises(ValueError, match=item.name):
                config(**{item.name: [value] if several else value})
    model = tiny_model(method)
    assert model.scheduler.config is model.config


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("shortcut", {"finest_steps": 96}, "finest_steps a power of two of at least 2, got 96"),
        ("edm", {"sigma_min": 90.0}, "expected 0 < sigma_min < sigma_max, got 90 and 80"),
        ("gdd", {"sigma_min": 0.0}, "0 < sigma_min < sigma_max, got 0 and 80"),
        ("add", {"mid_sigma": 100.0}, r"within \[0.002, 80\], got 33.3333 and 300"),
        ("consistency", {"s0": 2000}, "s0 of at most s1, got 2000 and 1280"),
        ("ddpm", {"num_train_timesteps": 0}, "num_train_timesteps of at least 1, got 0"),
        ("progressive", {"start_steps": 12}, "start_steps a power of 2 of at least 2, got 12"),
        ("progressive", {"serve_steps": 3}, "serve_steps a power of 2"),
        ("progressive", {"eta": 0.5}, "expected eta 0, got 0.5"),
        ("progressive", {"num_train_timesteps": 16}, "at most num_train_timesteps 16, got 32"),
        ("cmt", {"points": 17}, "points from 1 to nfe = 16, got 17"),
        ("cmt", {"distance": "lpips", "weighting": "edm"}, "lpips knows nothing"),
        ("ctm", {"solver_steps": 19}, "solver_steps from 1 to N, and N from 2, got 19 and 18"),
        ("ld3", {"nfe_list": [4, 4]}, "different numbers"),
        ("ld3", {"nfe_list": []}, "different numbers"),
        ("ld3", {"teacher_steps": 3}, "teacher_steps of at least 4, got 3"),
    ],
)
def test_options_that_do_not_fit_each_other(method, options, message):
    with pytest.raises(ValueError, match=message):
        create_custom_model(method=method, **TINY, **options)


def test_bases_stand_in_any_order():
    """What a method may be put together of: classes about its path, and about its teacher, which define no name in common."""
    paths, others = (VelocityModel, AverageVelocityModel, DDIMModel, ConsistencyModel), (WithDistance, WithDiscriminator)
    own = lambda cls: {name for base in cls.__mro__[: cls.__mro__.index(Method)] for name in vars(base) if name[0] != "_"}  # noqa: E731
    for path, other in itertools.product(paths, others):
        assert not own(path) & own(other), (path, other)
    options = (DiscriminatorOptions, TeacherOptions, DistanceOptions, *(cls.Config for cls in paths))
    for one, other in itertools.permutations(options, 2):
        if one not in options[3:] or other not in options[3:]:
            values = dataclass(type("Config", (one, other), {}))()
            assert {item.name for item in fields(values)} == {item.name for item in (*fields(one), *fields(other))}


def test_the_costs_are_those_of_the_documents():
    """The first cost that a method's section names is the class's own."""
    sections = (PROJECT_ROOT / "docs" / "methods.md").read_text().split("\n## ")[1:]
    for section in sections:
        name = section.partition("\n")[0]
        figure = re.search(r"^- Cost ([\d.]*\d)", section, re.MULTILINE)[1]
        assert vars(get_method(name))["cost"] == float(figure), name
    assert {section.partition("\n")[0] for section in sections} == set(shipped.METHODS) - {"custom"}


def test_an_option_s_old_name_is_read():
    assert create_custom_model(method="ld3", **TINY, lr_scale=7.0).config.parameter_scale == 7.0


def test_every_method_of_the_kit_explains_its_options():
    for name in shipped.METHODS:
        cls = get_method(name)
        for field in cls.Config.__dataclass_fields__.values():
            assert field.metadata.get("help"), f"{name}: option {field.name} has no help text"


def test_unknown_method_names_the_valid_ones():
    with pytest.raises(ValueError, match=r"'flow'.*custom, .*rectified_flow"):
        get_method("flow")
