"""What a loss is to the loop that optimises an image: a gradient for each step, and what it keeps from one step to the next."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from src.common.options import Options
from src.score_distillation.prior import Condition, Prior

SCALE_HELP = "of the prior: negative + W (wanted - negative) of noises; 0 is the negative alone, 1 what is wanted, more goes "
SCALE_HELP += "beyond it; 25 is prescribed for sds"


class Loss(ABC):
    """One run of a loss. A subclass is one file of this folder. Config are its options: every field is a flag."""

    Config: type[Options]

    def __init__(self, prior: Prior, condition: Condition, options: Any):
        self.prior, self.condition, self.options = prior, condition, options

    @abstractmethod
    def gradient(self, x: torch.Tensor, step: int, steps: int, generator: torch.Generator) -> torch.Tensor:
        """The gradient at latents x (B, C, H, W) in step number `step` (from 1) of `steps`, each image for itself: as x is.

        All randomness is the generator's, which is one of the CPU.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs: tensors, numbers and dicts of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most losses keep nothing
        """Take up what state_dict gave."""
