"""The two base classes every submission builds on. Their signatures are fixed: the course's scripts call them."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn


class BaseScheduler(nn.Module, ABC):
    """How noise is added to data and taken away again.

    num_train_timesteps is the course's number of discrete steps, for schedulers that have them. Other keyword arguments go to
    `_setup`, which a subclass overrides instead of `__init__`.
    """

    def __init__(self, num_train_timesteps: int = 1000, **kwargs: Any):
        super().__init__()
        self.num_train_timesteps = num_train_timesteps
        self._setup(**kwargs)

    def _setup(self, **kwargs: Any) -> None:
        """Keep the options of the subclass. Called once, at the end of the constructor."""

    @abstractmethod
    def sample_timesteps(self, batch_size: int, device: torch.device | str) -> torch.Tensor:
        """Draw training times: t (B,), float."""

    @abstractmethod
    def forward_process(self, data: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Mix data and noise, both (B, C, H, W), to xt (B, C, H, W) at time t (B,)."""

    @abstractmethod
    def reverse_process_step(self, xt: torch.Tensor, pred: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor) -> torch.Tensor:
        """Go from xt at t to x at t_next, both times (B,), by the network's prediction pred at t."""

    @abstractmethod
    def get_target(self, data: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the network learns to predict from xt at time t (B,): (B, C, H, W)."""


class BaseGenerativeModel(nn.Module, ABC):
    """A network and a scheduler that together learn from images and make images.

    Keyword arguments beyond the two go to `_setup`, which a subclass overrides instead of `__init__`.
    """

    def __init__(self, network: nn.Module, scheduler: BaseScheduler, **kwargs: Any):
        super().__init__()
        self.network = network
        self.scheduler = scheduler
        self._setup(**kwargs)

    def _setup(self, **kwargs: Any) -> None:
        """Keep the options of the subclass. Called once, at the end of the constructor."""

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        return next(self.network.parameters()).device

    @abstractmethod
    def compute_loss(self, data: torch.Tensor, noise: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The training loss, a scalar.

        Args:
            data: images (B, 3, H, W) in [-1, 1].
            noise: standard normal, (B, 3, H, W), independent of the data.
            kwargs: what the training loop knows, such as step and total_steps.
        """

    @abstractmethod
    def predict(self, xt: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """One call of the network at xt (B, 3, H, W) and t (B,): its prediction, (B, 3, H, W)."""

    @abstractmethod
    def sample(
        self,
        shape: tuple[int, ...],
        num_inference_timesteps: int = 20,
        return_traj: bool = False,
        verbose: bool = False,
        **kwargs: Any,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Make images of this shape (B, 3, H, W) in [-1, 1] with num_inference_timesteps network calls (NFE).

        With return_traj a list of every state from noise to image; with verbose a progress bar.
        """
