"""The challenges of faces: what they are is the course's, whatever the flag says."""

import json

import numpy as np
import pytest

import measure_fid
import sampling
import train
from custom_model import create_custom_model
from src.challenges import CHALLENGES, Challenge, get_challenge, graded_challenge
from src.common.cli import UserError
from tests.helpers import TINY_FLAGS, call, fails


def test_the_default_is_the_courses():
    course = get_challenge()
    assert course is get_challenge("simpsons") and course.graded
    assert (course.shape, course.nfe, course.num_samples) == ((3, 64, 64), (1, 2, 4), 1000)
    assert course.reference_dir() == "./data/simpsons_64x64/val"
    assert [entry.scores[1] for entry in course.published] == [293.4, 90.3, 18.2]
    network = {"ch": 128, "ch_mult": (1, 2, 2, 2), "attn": (1,), "num_res_blocks": 4, "dropout": 0.1}
    assert {item.name: item.default for item in course.network_fields()} == network


def test_every_challenge_says_all_of_itself():
    for name, challenge in CHALLENGES.items():
        assert challenge.name == name and challenge.about and challenge.num_samples > 1 and challenge.nfe
        assert set(challenge.network_options) == {item.name for item in challenge.network_fields()}
        assert challenge.metric in challenge.metrics
        args = train.parse(["--challenge", name])
        assert all(getattr(args, flag) == value for flag, value in challenge.training.items())


def test_data_is_another_name_for_challenge():
    assert train.parse(["--data", "toon"]).challenge == train.parse(["--challenge", "toon"]).challenge == "toon"
    assert train.parse([]).challenge == "simpsons"


def test_the_small_one_is_small(simpsons_root):
    small = get_challenge("simpsons32")
    faces, labels = small.load("val", simpsons_root)
    large, _ = get_challenge().load("val", simpsons_root)
    assert faces.shape == (1000, 3, 32, 32) and labels is None
    reduced = large[:50].reshape(50, 3, 32, 2, 32, 2).mean(axis=(3, 5))
    assert np.abs(faces[:50] - reduced).mean() < 4, "the same faces, in the same order"
    model = create_custom_model(challenge="simpsons32")
    assert 1.0e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.2e6
    assert small.reference_dir() == "./data/simpsons32_32x32/val"


def test_a_checkpoint_knows_its_challenge(toon, tmp_path, monkeypatch):
    """The course's is the one that no file names."""
    flags = [*TINY_FLAGS, "--batch_size", 4, "--num_iterations", 1, "--save_dir", tmp_path, "--run_name", "toon"]
    assert call(train, monkeypatch, *flags, "--challenge", "toon") == 0
    config = json.loads((tmp_path / "toon" / "model_config.json").read_text())
    assert config["challenge"] == "toon"
    assert "challenge" not in train.build_model(train.parse(TINY_FLAGS), get_challenge(), "cpu")[1]
    monkeypatch.setattr("sys.argv", ["sampling.py", "--ckpt_path", str(tmp_path / "toon" / "last.ckpt")])
    args, challenge = sampling.parse()
    assert challenge.name == args.challenge == "toon" and (args.num_samples, challenge.nfe) == (1000, (1, 2, 4))


def test_an_unknown_challenge_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "model_config.json").write_text('{"challenge": "cats"}')
    line = fails(sampling, monkeypatch, capsys, "--ckpt_path", tmp_path / "last.ckpt")
    assert f"unknown challenge 'cats'; expected one of {', '.join(CHALLENGES.names())}" in line
    assert "invalid choice: 'cats'" in fails(measure_fid, monkeypatch, capsys, "--generated_dir", "x", "--challenge", "cats")
    with pytest.raises(ValueError, match="unknown challenge 'cats'"):
        create_custom_model(challenge="cats")
    with pytest.raises(UserError, match="challenge toy2d is for practice"):
        graded_challenge("toy2d")


def test_a_challenge_that_lacks_a_method_is_refused_where_it_is_defined():
    facts = {"about": "", "shape": (2,), "load": lambda split, root: (np.zeros((1, 2)), None), "nfe": (1,), "num_samples": 1}
    with pytest.raises(TypeError, match="measure"):
        Challenge(name="unfinished", **facts, metrics={"distance": "distance"})
