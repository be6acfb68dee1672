"""A checkpoint of this kit as a prior: any class-conditional model whose method gives denoised data. Pixels are latents."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from src.base_model import BaseGenerativeModel
from src.common.cli import UserError, did_you_mean
from src.common.devices import autocast
from src.common.distilled import refusal
from src.score_distillation.lora import add_lora
from src.score_distillation.prior import Condition, Prior, shared_copy
from src.utils import expand_t

TIMES, FIRST_BETA, LAST_BETA = 1000, 1e-4, 0.02  # DDPM's linear schedule, arXiv:2006.11239


class Checkpoint(Prior):
    """A trained model of this kit, asked at the noise levels of DDPM's schedule, whatever path it was trained on.

    The state xt divided by sqrt(alpha_bar) is data + sigma noise with sigma = sqrt(1 / alpha_bar - 1), at which
    Method.denoised gives the data.

    Args:
        model: with num_classes, and denoised(x, sigma, labels=...); it is frozen.
        classes: the names of its classes 1, 2 ...
        shape: of one image.
        dtype: of the network's matrix products.

    Raises UserError for a model without classes, or whose method gives no denoised data.
    """

    def __init__(
        self, model: BaseGenerativeModel, classes: Sequence[str], shape: tuple[int, ...], dtype: torch.dtype = torch.float32
    ):
        self.model, self.classes, self.shape = model.eval().requires_grad_(False), list(classes), tuple(shape)
        self.device, self.dtype = model.device, dtype
        alpha_bar = (1 - torch.linspace(FIRST_BETA, LAST_BETA, TIMES, dtype=torch.float64)).cumprod(0).float()
        self.alpha_bar = alpha_bar.to(self.device)
        if refused := refusal(model, classes, shape):
            raise UserError(refused)

    def encode_condition(self, wanted: str, negative: str = "") -> Condition:
        """The labels of classes by name; nothing for negative stands for "no class"."""
        return Condition(self._labels(wanted, "--class"), self._labels(negative, "--negative_class"))

    def _labels(self, name: str, flag: str) -> torch.Tensor:
        classes = ["", *self.classes] if flag == "--negative_class" else self.classes
        if name not in classes:
            meant = did_you_mean(name, self.classes)
            raise UserError(f"{flag} {name}: no such class; expected one of {', '.join(self.classes)}{meant}")
        return torch.tensor([1 + self.classes.index(name) if name else 0], device=self.device)

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

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.float().clamp(-1, 1)
