"""The benches of speed with a tiny network and a peak of 1 GFLOP/s: what they print names the precision that was measured."""

import pytest
import torch

from benchmarks import sampling, training
from benchmarks.shared import peak
from tests.helpers import BOTH_PRECISIONS, call, tiny_model

NAMES = {"fp32": "float32", "bf16": "bfloat16"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(peak, "matrix_peak", lambda device, dtype: 1e9 if dtype == torch.float32 else 2e9)
    for module in (sampling, training):
        monkeypatch.setattr(module, "create_custom_model", lambda device: tiny_model())


@BOTH_PRECISIONS
def test_sampling(precision, monkeypatch, capsys):
    monkeypatch.setenv("CHALLENGE_PRECISION", precision)
    assert call(sampling, monkeypatch, "--batch_size", 2, "--batches", 1, "--device", "cpu") == 0
    plain, shipped = capsys.readouterr().out.splitlines()[1:3]
    assert plain.startswith("plain float32") and plain.endswith("of the float32 matrix peak of this run, 1 GFLOP/s")
    peak = {"fp32": 1, "bf16": 2}[precision]
    assert shipped.endswith(f"of the {NAMES[precision]} matrix peak of this run, {peak} GFLOP/s")


@pytest.mark.slow
@BOTH_PRECISIONS
def test_training(precision, monkeypatch, capsys):
    """With what train.py's loop spends beside its steps."""
    monkeypatch.setenv("CHALLENGE_PRECISION", precision)
    assert call(training, monkeypatch, "--batch_size", 2, "--steps", 6, "--device", "cpu") == 0
    lines = capsys.readouterr().out.splitlines()
    plain, shipped = (next(line for line in lines if line.startswith(name)) for name in ("plain loop", "train.py"))
    assert "of this run's float32 matrix peak of 1 GFLOP/s" in plain
    assert f"images/s, {NAMES[precision]}: " in shipped and f"{NAMES[precision]} matrix peak of " in shipped
    assert "beside training a step takes EMA " in lines[-1] and " logging " in lines[-1] and " preview " in lines[-1]


def test_the_peak_of_float32_on_a_gpu_is_that_of_its_convolutions(monkeypatch):
    """TF32 where cuDNN may use it and the GPU has it; measured with TF32 for products as well, and only there."""
    gpu, measured = torch.device("cuda"), []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # packages of other tests switch it off
    precision = torch.get_float32_matmul_precision
    monkeypatch.setattr(peak, "matrix_peak", lambda device, dtype: measured.append(precision()) or 1.0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert peak.network_peak(gpu, torch.float32)[1] == "TF32"
    assert peak.network_peak(gpu, torch.bfloat16)[1] == "bfloat16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert peak.network_peak(gpu, torch.float32)[1] == "float32"
    assert peak.network_peak(torch.device("cpu"), torch.float32)[1] == "float32"
    assert measured == ["high", "highest", "highest", "highest"]
