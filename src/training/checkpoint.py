"""The files a run can be continued from."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from src.methods._base import Method
from src.training.ema import EMA
from src.utils import UserError, load_torch, save_torch


@dataclass
class TrainingState:
    """Everything that changes while a run trains. Randomness and data follow from the seed and the step."""

    model: Method
    optimizers: dict[str, torch.optim.Optimizer]
    ema: EMA
    step: int = 0

    def save(self, path: Path) -> None:
        """Write resume.pt, whole or not at all."""
        save_torch(
            {
                "step": self.step,
                "model": self.model.state_dict(),
                "train_only": {name: module.state_dict() for name, module in self.model.train_only.items()},
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
                "ema": self.ema.average,
            },
            path,
        )

    def load(self, path: Path) -> None:
        """Restore what save wrote. Raises UserError if the file is absent, damaged or of another model."""
        saved = load_torch(path)
        try:
            self.model.load_state_dict(saved["model"])
            for name, module in self.model.train_only.items():
                module.load_state_dict(saved["train_only"][name])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(saved["optimizers"][name])
            for average, value in zip(self.ema.average, saved["ema"], strict=True):
                average.copy_(value)
            self.step = saved["step"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} is not of this model: {str(error).splitlines()[0]}") from error


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
