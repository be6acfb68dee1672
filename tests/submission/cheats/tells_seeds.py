"""crashed: an error whose text and name say what the grader told, such as its seeds."""

from honest import CustomGenerativeModel, create_custom_model  # noqa: F401


def sample(self, shape, num_inference_timesteps=20, seeds="none", **kwargs):
    raise type("SECRET", (Exception,), {})(f"SECRET {seeds} {kwargs}")


CustomGenerativeModel.sample = sample
