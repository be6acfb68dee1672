"""A checkpoint of this kit as a prior: any class-conditional model whose method tells denoised data. Pixels are latents."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from src.base_model import BaseGenerativeModel
from src.common.cli import UserError, did_you_mean
from src.common.devices import autocast, precision_name
from src.score_distillation.lora import add_lora
from src.score_distillation.prior import Condition, Prior, shared_copy
from src.utils import expand_t

TIMES, FIRST_BETA, LAST_BETA = 1000, 1e-4, 0.02  # DDPM's linear schedule, arXiv:2006.11239
METHODS_THAT_CAN = ("ddpm", "edm", "rectified_flow")  # of the kit's: they give denoised data


def describe_prior(file: Path, model: BaseGenerativeModel, dtype: torch.dtype) -> str:
    """Which checkpoint is distilled: its file, and what computes how."""
    return f"{file}: {type(model).__name__} on {model.device}, {precision_name(dtype)}"


class Checkpoint(Prior):
    """A trained model of this kit, asked at the noise levels of DDPM's schedule, whatever path it was trained on.

    The state xt divided by sqrt(alpha_bar) is data + sigma noise with sigma = sqrt(1 / alpha_bar - 1), at which
    Method.denoised tells the data.

    Args:
        model: with num_classes, and denoised(x, sigma, labels=...); it is frozen.
        classes: the names of its classes 1, 2 ...
        shape: of one image.
        dtype: of the network's matrix products.

    Raises UserError for a model without classes, or whose method tells no denoised data.
    """

    def __init__(
        self,
        model: BaseGenerativeModel,
        classes: Sequence[str],
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
    ):
        if not classes:
            raise UserError("the checkpoint knows no classes: give one that was trained with --class_conditional")
        self.model, self.classes, self.shape = model.eval().requires_grad_(False), list(classes), tuple(shape)
        self.device, self.dtype = model.device, dtype
        self.alpha_bar = (1 - torch.linspace(FIRST_BETA, LAST_BETA, TIMES, dtype=torch.float64)).cumprod(0).float()
        self.alpha_bar = self.alpha_bar.to(self.device)
        try:
            some = self._labels(1)
            self.network_noise(torch.zeros(1, *self.shape, device=self.device), some, some)
        except NotImplementedError as error:
            *others, last = METHODS_THAT_CAN
            raise UserError(f"the checkpoint cannot be distilled: {error}; {', '.join(others)} and {last} can") from error

    def encode_condition(self, wanted: str, negative: str = "") -> Condition:
        """The labels of classes by name; nothing for negative stands for "no class"."""
        unwanted = self._label(negative, "--negative_class") if negative else self._labels(0)
        return Condition(self._label(wanted, "--class"), unwanted)

    def _label(self, name: str, flag: str) -> torch.Tensor:
        if name not in self.classes:
            meant = did_you_mean(name, self.classes)
            raise UserError(f"{flag} {name}: no such class; expected one of {', '.join(self.classes)}{meant}")
        return self._labels(1 + self.classes.index(name))

    def _labels(self, label: int) -> torch.Tensor:
        return torch.tensor([label], device=self.device)

    def network_noise(self, xt: torch.Tensor, t: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        alpha_bar = self.alpha_bar[t]
        sigma = (1 / alpha_bar - 1).sqrt()
        x = xt / expand_t(alpha_bar.sqrt(), xt)
        with autocast(self.device, self.dtype):
            data = self.model.denoised(x, sigma, labels=embedding).to(x.dtype)
        return (x - data) / expand_t(sigma, x)

    def adapted(self, rank: int) -> tuple["Checkpoint", list[nn.Parameter]]:
        other = copy.copy(self)
        other.model = shared_copy(self.model)
        return other, add_lora(other.model.network, rank)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.float().clamp(-1, 1)
