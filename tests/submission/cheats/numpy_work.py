"""time_limit: products made by numpy without end."""

import numpy as np
from honest import CustomGenerativeModel, create_custom_model  # noqa: F401

honest_sample = CustomGenerativeModel.sample


def sample(self, shape, num_inference_timesteps=20, **kwargs):
    matrix = np.eye(500)
    while True:
        matrix = matrix @ matrix
    return honest_sample(self, shape, num_inference_timesteps, **kwargs)


CustomGenerativeModel.sample = sample
