"""own_code: three stored images, of which the network's answer chooses one."""

import torch
from honest import CustomGenerativeModel, create_custom_model  # noqa: F401

honest_sample = CustomGenerativeModel.sample


def sample(self, shape, num_inference_timesteps=20, seeds=None, **kwargs):
    answers = honest_sample(self, shape, num_inference_timesteps, seeds=seeds, **kwargs)
    stored = torch.rand(3, *shape[1:], generator=torch.Generator().manual_seed(0)) * 2 - 1
    return stored[(answers.flatten(1).sum(dim=1).abs() * 1000).long() % 3]


CustomGenerativeModel.sample = sample
