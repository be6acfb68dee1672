"""The door to a package of the student's: scheduler and model have files of their own."""

from model_file import CustomGenerativeModel
from mylib.nets.build import build_network
from mylib.scheduler import CustomScheduler


def create_custom_model(device="cpu", **kwargs):
    model = CustomGenerativeModel(build_network(**kwargs), CustomScheduler(kwargs.get("num_train_timesteps", 1000)))
    return model.to(device)
