"""wrong_architecture: a class of its own in the U-Net's place, which would count nothing."""

from honest import create_custom_model as honest_model

from src.network import UNet


class Network(UNet):
    def forward(self, x, timestep, condition=None):
        return super().forward(super().forward(x, timestep, condition), timestep, condition)


def create_custom_model(device="cpu", **options):
    model = honest_model(device, **options)
    model.network.__class__ = Network
    return model
