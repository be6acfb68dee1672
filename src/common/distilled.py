"""What score distillation takes and leaves, by name: for its commands, the page that starts them, and the hand-in.

outputs/sds/a_cat.png            the last image; of several particles a_cat_0.png, a_cat_1.png ...
outputs/sds/run_config.json      the settings of the last run
outputs/sds/eval.json            scores of all images, by python -m src.score_distillation.evaluate
outputs/sds/a_cat/               of the run: run_config.json, log.jsonl, step_00025.png ... and what it is continued from
outputs/comparison.png           all losses side by side
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from src.common.devices import precision_name

LOSS_TYPES = ("sds", "vsd", "sdi")
RUN_CONFIG, EVAL, STEP = "run_config.json", "eval.json", "step_{step:05d}.png"
MARKS = {"full marks": 0.28, "second mark": 0.26, "third mark": 0.24}  # the course's, of the mean cosine by CLIP
METHODS = ("ddpm", "edm", "rectified_flow")  # of the kit's: they give denoised data
STEM_BYTES = 200  # of a file's name that a prompt makes, so that with an ending it is one that a disk takes


def file_stem(prompt: str) -> str:
    """A prompt as the name of a file: spaces, and what a file's name cannot hold, become underscores."""
    stem = re.sub(r'[\s/\\:*?"<>|]', "_", prompt.strip()).lstrip(".")
    return stem.encode()[:STEM_BYTES].decode(errors="ignore")


def describe_marks(score: float) -> str:
    """Which of MARKS a score reaches, in words."""
    return "; ".join(f"{name}: {bound:g}, {'' if score >= bound else 'not '}reached" for name, bound in MARKS.items())


def describe_prior(file: Path, model: Any, dtype: torch.dtype) -> str:
    """Which checkpoint is distilled: its file, and what computes how."""
    return f"{file}: {type(model).__name__} on {model.device}, {precision_name(dtype)}"


def refusal(model: Any, classes: Sequence[str], shape: Sequence[int]) -> str:
    """Why a checkpoint of the kit cannot be distilled, in one line; empty where it can be. shape: of one image."""
    if not classes:
        return "the checkpoint knows no classes: give one that was trained with --class_conditional"
    one = torch.ones(1, device=model.device)
    try:
        model.denoised(torch.zeros(1, *shape, device=model.device), one, labels=one.long())
    except NotImplementedError as error:
        return f"the checkpoint cannot be distilled: {error}; {', '.join(METHODS[:-1])} and {METHODS[-1]} can"
    return ""
