"""too_many_calls: twice the steps that are claimed."""

from honest import CustomGenerativeModel, create_custom_model  # noqa: F401

honest_sample = CustomGenerativeModel.sample


def sample(self, shape, num_inference_timesteps=20, **kwargs):
    return honest_sample(self, shape, 2 * num_inference_timesteps, **kwargs)


CustomGenerativeModel.sample = sample
