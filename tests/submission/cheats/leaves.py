"""crashed: the process ends itself with success."""

import os

from honest import CustomGenerativeModel, create_custom_model  # noqa: F401


def sample(self, shape, num_inference_timesteps=20, **kwargs):
    os._exit(0)


CustomGenerativeModel.sample = sample
