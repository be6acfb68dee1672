"""An exponential moving average of the weights: what is sampled, saved and handed in."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


class EMA:
    """The average of a model's parameters over the last steps.

    half_life is a share of the steps made so far: a weight from half_life * step steps ago counts half. Such an average fits
    runs of every length and forgets the random start. It is the power-function average of Karras et al. (EDM2,
    arXiv:2312.02696, sec. 3.1) in terms of a half-life. 0 keeps the latest weights.
    """

    def __init__(self, model: nn.Module, half_life: float = 0.05):
        if half_life < 0:
            raise ValueError(f"expected a half-life of at least 0, got {half_life}")
        self.parameters = list(model.parameters())
        self.half_life = half_life
        self.average = [parameter.detach().clone() for parameter in self.parameters]

    def decay(self, step: int) -> float:
        """The weight that the old average keeps at this step (from 1)."""
        return 0.5 ** (1 / (self.half_life * step)) if self.half_life else 0.0

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after step number `step` (from 1)."""
        torch._foreach_lerp_(self.average, self.parameters, 1 - self.decay(step))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights; after it, its own again, untouched."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for index, parameter in enumerate(self.parameters):
            parameter.data, self.average[index] = self.average[index], parameter.data
