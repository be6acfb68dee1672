"""From an unpacked submission to a model that can be sampled: in the same way when it is checked and when it is graded."""

from pathlib import Path
from typing import Any

from src.challenges import Challenge
from src.submission.archive import copy_code
from src.submission.audit import measure_cost
from src.submission.broker import Model
from src.submission.manifest import restore
from src.submission.readable import check_readable
from src.submission.weights import Weights


def read_model(top: Path, code: Path, config: dict[str, Any], weights: Weights, challenge: Challenge) -> Model:
    """The model of an unpacked submission: its Python files in the new folder `code`, the kit's protected ones in place.

    Nothing of it runs. Raises Failed where its code or options hold more than code and options.
    """
    names = copy_code(top, code)
    restore(code)
    check_readable(code, names, config, weights)
    return Model(code, config, weights, measure_cost(next(iter(weights.networks.values())), challenge.shape))
