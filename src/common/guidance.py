"""Labels as arguments, and guidance towards them, for every method: in one place."""

from dataclasses import dataclass
from typing import Any

import torch

from src.base_model import BaseGenerativeModel


def with_labels(labels: torch.Tensor | None, rows: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """The keyword argument that tells predict the labels (B,), or those of some rows; none where there are no labels."""
    if labels is None:
        return {}
    return {"labels": labels if rows is None else labels[rows]}


@dataclass(frozen=True)
class Guidance:
    """Steers samples away from what a poorer prediction would make of them, towards the model's own.

    The steered prediction is, with scale w above 0,

        base + w (pred - base)

    where pred is the model's for the labels asked for, and base is its own for "no class" (classifier-free guidance, Ho and
    Salimans, arXiv:2207.12598), or that of a weaker model for the same labels (autoguidance, Karras et al., arXiv:2406.02507).
    Noise, velocity and denoised data of one state are linear in each other, so it does not matter which of them it is. A small
    w is nearly base, w = 1 is the model itself and larger ones go beyond it, in two calls a step all of them. w = 0 is not
    where small ones lead to: it is taken to mean no guidance, the model alone in one call.

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

    def acts_at(self, sigma: torch.Tensor) -> bool:
        """Whether it steers at noise levels sigma (B,), which are all the same."""
        return self.scale > 0 and self.low <= float(sigma.flatten()[0]) <= self.high

    def apply(
        self,
        model: BaseGenerativeModel,
        x: torch.Tensor,
        t: torch.Tensor,
        *args: Any,
        labels: torch.Tensor | None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """The steered prediction of model at x (B, ...) and t (B,), for labels (B,): two network calls.

        Raises ValueError where there is nothing to steer from: no labels, and no weaker model.
        """
        if self.weak is None and labels is None:
            raise ValueError("guidance without a weaker model needs labels, of a model that was trained with them")
        pred = model.predict(x, t, *args, **with_labels(labels), **kwargs)
        if self.weak is not None:
            base = self.weak.predict(x, t, *args, **with_labels(labels), **kwargs)
        else:
            base = model.predict(x, t, *args, labels=torch.zeros_like(labels), **kwargs)
        return steer(pred, base, self.scale)


def scale_warning(scale: float, base: str, at_zero: str) -> str:
    """A line about a --guidance_scale between 0 and 1, which steers towards base; empty for others.

    base, at_zero: what is steered from, and what scale 0 means, in words.
    """
    if not 0 < scale < 1:
        return ""
    text = f"{base} (near 0) and no guidance (1): only above 1 it guides; 0 is {at_zero}"
    return f"warning: --guidance_scale {scale:g} is between {text}"


def steer(pred: torch.Tensor, base: torch.Tensor, scale: float) -> torch.Tensor:
    """base + scale (pred - base), of predictions (B, ...) that are linear in the denoised data."""
    return base + scale * (pred - base)


def guided_denoised(
    model: BaseGenerativeModel, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """What a teacher takes the data at x = data + sigma noise to be, with guidance of this scale: (B, ...) -> (B, ...).

    Rows without a class are not steered by it, whatever the scale.
    """
    conditional = model.denoised(x, sigma, **with_labels(labels))
    if scale == 0 or labels is None:
        return conditional
    base = model.denoised(x, sigma, labels=torch.zeros_like(labels))
    return steer(conditional, base, scale)
