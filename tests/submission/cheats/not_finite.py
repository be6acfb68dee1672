"""wrong_output: values that are not numbers."""

from honest import CustomGenerativeModel, create_custom_model  # noqa: F401

honest_sample = CustomGenerativeModel.sample


def sample(self, shape, num_inference_timesteps=20, **kwargs):
    return honest_sample(self, shape, num_inference_timesteps, **kwargs) * float("nan")


CustomGenerativeModel.sample = sample
