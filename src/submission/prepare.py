"""From an unpacked submission to a model that can be sampled: in the same way when it is checked and when it is graded."""

from pathlib import Path
from typing import Any

from src.submission.archive import copy_code
from src.submission.broker import Model
from src.submission.manifest import restore
from src.submission.weights import Weights


def read_model(top: Path, code: Path, config: dict[str, Any], weights: Weights) -> Model:
    """The model of an unpacked submission: its Python files in the new folder `code`, the kit's protected ones in place.

    Nothing of it runs. Raises Failed where its options are none.
    """
    copy_code(top, code)
    restore(code)
    return Model(code, config, weights)
