"""bfloat16, channels_last, fused Adam and torch.compile change rounding alone: the fast path learns what the plain one does."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch

from src.challenges.toon.drawing import reduced, toon_faces
from src.common.devices import seed_everything
from src.common.noise import step_seed
from src.module import ResBlock
from src.training.batches import Batches
from src.training.config import TrainingConfig
from src.training.loop import Trainer
from src.training.step import NOISE_DRAWS
from tests.helpers import fill_by_rule, tiny_model

CPU = torch.device("cpu")


@pytest.mark.slow
def test_loss_curves_of_the_fast_and_the_plain_path_agree(tmp_path):
    """300 steps from the same weights, on the same data, noise and times; compared as running means of 20 steps."""
    images = reduced(toon_faces(64, seed=1), 16)
    config = TrainingConfig(
        batch_size=8,
        num_iterations=300,
        lr=1e-3,
        lr_warmup=20,
        log_interval=1,
        save_interval=1000,
    )
    Trainer(tiny_model(), images, config, {}, tmp_path, CPU, torch.bfloat16).run()
    fast = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]

    model = tiny_model().train()
    optimizer = torch.optim.Adam(model.parameters(), config.lr, foreach=False, fused=False)
    batches = Batches(images, config.batch_size, config.seed, CPU)
    plain = []
    for step in range(1, config.num_iterations + 1):
        seed_everything(step_seed(config.seed, step, NOISE_DRAWS))
        noise = torch.randn(config.batch_size, 3, 16, 16)
        seed_everything(step_seed(config.seed, step, 0))
        optimizer.zero_grad()
        loss = model.compute_loss(batches[step - 1], noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        for options in optimizer.param_groups:
            options["lr"] = config.lr * min(1, step / config.lr_warmup)
        optimizer.step()
        plain.append(loss.item())

    fast, plain = (np.convolve(losses, np.ones(20) / 20, "valid") for losses in (fast, plain))
    assert plain[-1] < 0.5 * plain[0], "nothing was learned"
    assert np.abs(fast / plain - 1).max() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_compiled_gradients_of_the_top_level_are_the_eager_ones(device):
    """Where pytorch #140913 went wrong: GroupNorm of 4 channels a group, channels_last, bfloat16, compiled.

    Both are held against float32: compiling may round differently, but not more than bfloat16 does.
    """
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if device == "cpu" and not shutil.which("g++"):
        pytest.skip("no C++ compiler, which torch.compile needs on a CPU")
    block = fill_by_rule(ResBlock(128, 128, 512, dropout=0.0)).to(device, memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 128, 16, 16, generator=generator).to(device, memory_format=torch.channels_last)
    x.requires_grad_()  # as in the network; without it GroupNorm's backward pass crashes on a CPU (channels_last, torch 2.11)
    temb = torch.randn(4, 512, generator=generator).to(device)

    def gradients(forward, dtype):
        block.zero_grad()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = forward(x, temb).float().square().mean()
        loss.backward()
        return {name: parameter.grad.clone() for name, parameter in block.named_parameters()}

    def errors(got):
        return {name: ((got[name] - exact[name]).norm() / exact[name].norm()).item() for name in exact}

    exact = gradients(block, torch.float32)
    eager = errors(gradients(block, torch.bfloat16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = errors(gradients(torch.compile(block), torch.bfloat16))
    assert max(eager.values()) > 1e-4, "bfloat16 was not used"
    for name in exact:
        assert compiled[name] < 2 * eager[name] + 1e-2, name
