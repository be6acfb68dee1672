"""A stand-in of the course's src/base_model.py."""

from abc import ABC, abstractmethod

import torch.nn as nn


class BaseScheduler(nn.Module, ABC):
    def __init__(self, num_train_timesteps: int = 1000, **kwargs):
        super().__init__()
        self.num_train_timesteps = num_train_timesteps
        self._setup(**kwargs)

    def _setup(self, **kwargs):
        pass

    @abstractmethod
    def sample_timesteps(self, batch_size, device): ...

    @abstractmethod
    def forward_process(self, data, noise, t): ...

    @abstractmethod
    def reverse_process_step(self, xt, pred, t, t_next): ...

    @abstractmethod
    def get_target(self, data, noise, t): ...


class BaseGenerativeModel(nn.Module, ABC):
    def __init__(self, network, scheduler, **kwargs):
        super().__init__()
        self.network = network
        self.scheduler = scheduler
        self._setup(**kwargs)

    def _setup(self, **kwargs):
        pass

    @property
    def device(self):
        return next(self.network.parameters()).device

    @abstractmethod
    def compute_loss(self, data, noise, **kwargs): ...

    @abstractmethod
    def predict(self, xt, t, **kwargs): ...

    @abstractmethod
    def sample(self, shape, num_inference_timesteps=20, return_traj=False, verbose=False, **kwargs): ...
