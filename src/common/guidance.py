"""Labels as arguments, and guidance towards them, for every method: in one place."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.base_model import BaseGenerativeModel


def with_labels(labels: Tensor | None, rows: Tensor | None = None) -> dict[str, Tensor]:
    """The keyword argument `labels` of predict, for all labels (B,) or those of some rows; none where there are no labels."""
    if labels is None:
        return {}
    return {"labels": labels if rows is None else labels[rows]}


@dataclass(frozen=True)
class Guidance:
    """Steers samples away from what a poorer prediction would make of them, towards the model's own.

    The steered prediction is base + w (pred - base), with scale w above 0. pred is the model's for the labels; base is its own
    for "no class" (classifier-free guidance, Ho and Salimans, arXiv:2207.12598), or that of a weaker model for the same labels
    (autoguidance, Karras et al., arXiv:2406.02507). Noise, velocity and denoised data of one state are linear in each other, so
    it does not matter which of them it is. A small w is nearly base, w = 1 is the model itself and larger ones go beyond it, in
    two calls a step all of them. w = 0 means no guidance, the model alone in one call; small w do not lead there.

    Others write (1 + w') pred - w' base, as Ho and Salimans do: their w' is w - 1 here, their 6.5 is 7.5.

    Args:
        scale: w, at least 0.
        low, high: noise levels sigma between which it acts, both included; outside them a step makes one call (Kynkaanniemi et
            al., arXiv:2404.07724).
        weak: the weaker model, of the same method.

    Raises ValueError for a negative scale, or an interval that is none.
    """

    scale: float
    low: float = 0.0
    high: float = float("inf")
    weak: BaseGenerativeModel | None = None

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise ValueError(f"expected a guidance scale of at least 0, got {self.scale:g}")
        if not 0 <= self.low < self.high:
            raise ValueError(f"expected a guidance interval of noise levels 0 <= low < high, got {self.low:g} to {self.high:g}")

    def acts_at(self, sigma: Tensor) -> bool:
        """Whether it steers at noise levels sigma (B,), which are all the same."""
        return self.scale > 0 and self.low <= float(sigma.flatten()[0]) <= self.high

    def apply(
        self, model: BaseGenerativeModel, x: Tensor, t: Tensor, *args: Any, labels: Tensor | None, **kwargs: Any
    ) -> Tensor:
        """The steered prediction of model at x (B, ...) and t (B,): two network calls. ValueError without labels or weak."""
        if self.weak is None and labels is None:
            raise ValueError("guidance without a weaker model needs labels, of a model that was trained with them")
        pred = model.predict(x, t, *args, **with_labels(labels), **kwargs)
        poorer, their_labels = (self.weak, labels) if self.weak is not None else (model, torch.zeros_like(labels))
        return steer(pred, poorer.predict(x, t, *args, **with_labels(their_labels), **kwargs), self.scale)


def steer(pred: Tensor, base: Tensor, scale: float) -> Tensor:
    """base + scale (pred - base), of predictions (B, ...) that are linear in the denoised data."""
    return base + scale * (pred - base)


def guided_denoised(model: BaseGenerativeModel, x: Tensor, sigma: Tensor, labels: Tensor | None, scale: float) -> Tensor:
    """A teacher's denoised data at x = data + sigma noise, with guidance of this scale: (B, ...) -> (B, ...).

    Guidance does not steer rows without a class, whatever the scale.
    """
    conditional = model.denoised(x, sigma, **with_labels(labels))
    if scale == 0 or labels is None:
        return conditional
    return steer(conditional, model.denoised(x, sigma, labels=torch.zeros_like(labels)), scale)
