"""own_code: a picture in float64, of which one value is no float32, so that no share of it can be computed."""

import torch
from honest import CustomGenerativeModel, create_custom_model  # noqa: F401

PICTURE = torch.linspace(-1, 1, 3 * 64 * 64, dtype=torch.float64).reshape(3, 64, 64)
honest_sample = CustomGenerativeModel.sample


def sample(self, shape, num_inference_timesteps=20, **kwargs):
    images = honest_sample(self, shape, num_inference_timesteps, **kwargs)
    images = 0 * images.double() + PICTURE
    images[:, 0, 0, 0] = 1e39
    return images


CustomGenerativeModel.sample = sample
