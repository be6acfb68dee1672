"""A sampler as arithmetic, as the page and the write-up ask for it."""

import pytest

from src.common.arithmetic import arithmetic
from src.common.checkpoints import save_model
from src.common.cli import UserError
from tests.helpers import TINY, tiny_model


def test_the_commands_words(tmp_path, python_forked):
    save_model(tiny_model("rectified_flow"), tmp_path / "last.ckpt", {"method": "rectified_flow", **TINY})
    assert arithmetic(tmp_path, 1) == [
        "NFE 1: 1 network call, 2 operations, 2 numbers",
        "noise0 = normal(B, 3, 64, 64)",
        "y1 = network(noise0, timestep=0)",
        "images = noise0 + 1 * y1",
    ]
    with pytest.raises(UserError, match="absent"):
        arithmetic(tmp_path / "absent", 1)
