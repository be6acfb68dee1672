"""Score distillation as the page has it: what is asked for, the moments that it leaves, and the command that makes the same."""

import copy
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from src.challenges.shared.images import as_rgb
from src.common.cli import UserError
from src.common.images import to_uint8
from src.common.options import Options, default_of
from src.page.samples import alone
from src.page.sources import Loaded
from src.score_distillation.checkpoint import Checkpoint, describe_prior
from src.score_distillation.losses import LOSSES, start
from src.score_distillation.optimize import OptimizeOptions, optimize

STEPS, LR, PARTICLES = 200, 0.03, 4  # by default: fewer steps, and longer ones, than the command's, since somebody waits
MOMENTS = 20  # that are shown on the way
Tell = Callable[[int, float, torch.Tensor], None]  # is told a step, its loss, and the images so far


@dataclass(frozen=True)
class Wanted:
    """What is to be distilled.

    Args:
        name: of the class.
        loss_type: of LOSSES.
        options: of the run; its log_step says which moments are kept.
        own: of the loss.
    """

    name: str
    loss_type: str
    options: OptimizeOptions
    own: Options


@dataclass(frozen=True, eq=False)
class Distilled:
    """Images (moments, particles, C, H, W) in [-1, 1], float32 on the CPU, and the step and the loss of each moment."""

    images: torch.Tensor
    steps: list[int]
    losses: list[float]


def options_of(loss_type: str) -> Options:
    """The options of a loss that suit a checkpoint of this kit."""
    loss = LOSSES[loss_type]
    return loss.Config(**loss.FOR_CHECKPOINT)


def prior_of(loaded: Loaded, model: Any) -> Checkpoint:
    """As a prior the loaded model, or a copy of it. Raises UserError where it cannot be one."""
    return Checkpoint(model, loaded.classes, loaded.shape, loaded.dtype)


def refusal(loaded: Loaded) -> str:
    """Why the model cannot be distilled, in one line; empty where it can be."""
    if not loaded.makes_images:
        return f"samples of challenge {loaded.challenge.name} are no images"
    try:
        with alone:
            prior_of(loaded, loaded.model)
    except UserError as error:
        return str(error)
    return ""


def describe(loaded: Loaded) -> str:
    """Which checkpoint is distilled, as the command prints it."""
    return describe_prior(loaded.checkpoint, loaded.model, loaded.dtype)


def distil(loaded: Loaded, wanted: Wanted, tell: Tell) -> Distilled:
    """The images of every moment, those of the command below.

    Raises UserError for a model without classes, or whose method tells no denoised data, and where the gradient stops being
    finite.
    """
    with alone:  # the copy is this run's own, in the memory layout of the command, whose rounding is another
        model = copy.deepcopy(loaded.model).to(memory_format=torch.contiguous_format)
        prior = prior_of(loaded, model)
        loss = start(wanted.loss_type, prior, prior.encode_condition(wanted.name), wanted.own, wanted.options.seed)
    moments, steps, losses = [], [], []

    def report(step: int, value: float, latents: torch.Tensor) -> None:
        moments.append(prior.decode(latents).cpu())
        steps.append(step)
        losses.append(value)
        tell(step, value, moments[-1])

    optimize(loss, wanted.options, report=report)
    return Distilled(torch.stack(moments), steps, losses)


def to_array(images: torch.Tensor) -> np.ndarray:
    """Images (B, C, H, W) as the command stores them, without a contrast of the challenge: uint8 (B, 3, H, W)."""
    return as_rgb(to_uint8(images).numpy())


def command(loaded: Loaded, wanted: Wanted) -> str:
    """The command that makes the same images on this device; options that have their defaults are left out."""
    flags = {"prior": loaded.checkpoint, "class": wanted.name, "loss_type": wanted.loss_type, "device": loaded.model.device}
    for options in (wanted.options, wanted.own):
        told = {item: getattr(options, item.name) for item in fields(options)}
        flags |= {item.name: value for item, value in told.items() if value != default_of(item)}
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    return shlex.join(["python", "-m", "src.score_distillation", *words])
