"""Small models and fixed weights that the tests share."""

import re
import sys
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from custom_model import create_custom_model
from src.common.cli import run_script
from src.common.devices import PRECISIONS
from src.methods import Method
from src.runs.folder import Run
from src.runs.scores import OLD_NAMES, OLD_NUMBERS, add_scores

TINY = {"ch": 8, "ch_mult": (1, 2), "attn": (1,), "num_res_blocks": 1}
TINY_FLAGS = ["--ch", "8", "--ch_mult", "1", "2", "--attn", "1", "--num_res_blocks", "1", "--device", "cpu"]
FACES_FLAGS = [*TINY_FLAGS, "--ch_mult", "1", "2", "2", "2", "--attn", "3"]  # for images of 64x64: attention over 8x8 pixels
SHAPE = (3, 16, 16)


def slow_but(fast: Collection[object], values: Iterable[object]) -> list:
    """Cases of pytest.mark.parametrize, slow but for a few; a case of several arguments is a tuple."""
    values = list(values)
    assert all(value in values for value in fast), f"no such cases: {[value for value in fast if value not in values]}"
    return [value if value in fast else pytest.param(*_as_arguments(value), marks=pytest.mark.slow) for value in values]


def _as_arguments(value: object) -> tuple:
    return value if isinstance(value, tuple) else (value,)


BOTH_PRECISIONS = pytest.mark.parametrize("precision", slow_but(["fp32"], PRECISIONS))  # whatever auto means on this machine


@torch.no_grad()
def fill_by_rule(module: torch.nn.Module) -> torch.nn.Module:
    """Fill every parameter by the rule of the golden outputs: a normal draw seeded by the CRC of its name, scaled by fan-in."""
    for name, parameter in module.named_parameters():
        draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(tuple(parameter.shape))
        if parameter.ndim > 1:
            draw /= np.sqrt(np.prod(parameter.shape[1:]))
        else:
            draw = 0.1 * draw + (1 if name.endswith("weight") else 0)
        parameter.copy_(torch.from_numpy(draw))
    return module


def tiny_model(method: str = "custom", **options) -> Method:
    """A tiny model whose every layer matters (a fresh U-Net's output is nearly zero)."""
    model = create_custom_model(method=method, **{**TINY, **options})
    fill_by_rule(model.network)
    if model.needs_teacher:
        model.set_teacher(tiny_model("edm", preconditioning=options.get("preconditioning", "edm")))
    return model.eval()


def bfloat16_error(network: torch.nn.Module) -> float:
    """How far a network's output in bfloat16 may be from the one in float32, as a share of its norm.

    bfloat16 has 8 significant bits: rounding to it is off by up to 2^-8 of a value, by 2^-8 / sqrt(6) in the root mean square
    over values spread evenly between two powers of two. Each layer with weights rounds these and its result; errors that do
    not know of each other add as squares; and normalised layers enlarge none. An image, which is a weighted mean of noise and
    outputs, is off by no more; a wrong image by about its whole norm.
    """
    layers = sum(bool(list(module.parameters(recurse=False))) for module in network.modules())
    return 2**-8 * (2 * layers / 6) ** 0.5


def assert_images_agree(images: torch.Tensor, expected: torch.Tensor, precision: str, network: torch.nn.Module, **fp32) -> None:
    """Within the bounds atol and rtol for fp32; for bf16 each image within what bfloat16 explains, both being off by it."""
    if precision == "fp32":
        torch.testing.assert_close(images, expected, **fp32)
    else:
        share = ((images - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).max().item()
        bound = 2**0.5 * bfloat16_error(network)
        assert share < bound, f"an image differs by {share:.4f} of its norm, bfloat16 explains {bound:.4f}"


def read_pngs(folder: Path) -> np.ndarray:
    """The folder's images, int (N, H, W, 3), in the order of their names."""
    return np.stack([np.asarray(Image.open(path)).astype(int) for path in sorted(folder.iterdir())])


def assert_pngs_agree(folder: Path, expected: Path, precision: str, network: torch.nn.Module) -> None:
    """As assert_images_agree for what was written; for fp32 rounding may tip a pixel to the next of its 256 levels."""
    images, others = (torch.from_numpy(read_pngs(path) / 127.5 - 1) for path in (folder, expected))
    assert_images_agree(images, others, precision, network, atol=1.001 / 127.5, rtol=0)


def assert_runs_agree(run_dir: Path, other: Path, precision: str, exact: Path, fp32: float) -> None:
    """That two runs, which computed the same in another order, ended in the same weights (last.ckpt).

    For fp32 no weight may differ by more than this bound. In bf16 Adam makes the rounding of a small gradient as large as any
    step, so that single weights say nothing, and all of them together this: each run is as far from the one in float32, which
    stands in `exact`, as bfloat16 takes it, so they are no farther from each other than twice as far.

    The biases of attention's keys are left out: they shift all logits of a softmax alike, so that their gradient is zero but
    for rounding.
    """

    def weights(folder: Path) -> torch.Tensor:
        state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
        return torch.cat([value.flatten() for name, value in state.items() if not name.endswith("proj_k.bias")])

    difference = weights(run_dir) - weights(other)
    if precision == "fp32":
        largest = difference.abs().max().item()
        assert largest < fp32, f"a weight differs by {largest:.1e}"
    else:
        share = (difference.norm() / (weights(run_dir) - weights(exact)).norm()).item()
        assert share < 2, f"the runs are {share:.1f} times as far apart as bfloat16 takes one from float32"


def draw_little(kit: Path) -> None:
    """Let a copy of the kit draw a few toon faces instead of thousands, and two images in a row of a preview."""
    for name, pattern, count in (
        ("toon/__init__.py", r'(?<=")(train|val)": \(\d+', r'\1": (12'),
        ("shared/challenge.py", r"preview_samples = \d+", "preview_samples = 2"),
    ):
        file = kit / "src" / "challenges" / name
        text, changes = re.subn(pattern, count, file.read_text())
        assert changes, f"{name} has no such numbers any more"
        file.write_text(text)


def random_images(count: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def call(module, monkeypatch, *argv) -> int:
    """Run a script's main as its command line does; its exit code."""
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, argv)])
    try:
        run_script(module.main)
    except SystemExit as end:
        return end.code
    return 0


def fails(module, monkeypatch, capsys, *argv) -> str:
    """The one line with which a script refuses these arguments."""
    assert call(module, monkeypatch, *argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


DETAILS = {*OLD_NUMBERS, "reference", "precision", "date", "checkpoint", "autoguidance"}


def add_measured(run: Run, row: dict[str, Any], samples: Path | None = None) -> None:
    """Add to a run what was measured of its samples: scores by name, and DETAILS of them."""
    row = {OLD_NAMES.get(name, name): value for name, value in row.items()}
    values = {name: value for name, value in row.items() if isinstance(value, (float, str)) and name not in DETAILS}
    add_scores(run, values, samples, **{name: value for name, value in row.items() if name not in values})
