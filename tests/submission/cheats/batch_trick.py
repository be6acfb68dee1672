"""too_many_calls: one call, but on two candidates for each image."""

import torch
from honest import CustomGenerativeModel, create_custom_model  # noqa: F401


def sample(self, shape, num_inference_timesteps=20, **kwargs):
    noise = torch.randn(2 * shape[0], *shape[1:])
    images = noise + self.predict(noise, torch.zeros(2 * shape[0]))
    return (images[: shape[0]] + images[shape[0] :]) / 2


CustomGenerativeModel.sample = sample
