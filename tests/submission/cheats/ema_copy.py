"""too_many_calls: a call of the average beside each call of the network."""

import copy

from honest import CustomGenerativeModel
from honest import create_custom_model as honest_model


def predict(self, xt, t, **kwargs):
    return (self.network(xt, t) + self.ema_network(xt, t)) / 2


def create_custom_model(device="cpu", **options):
    model = honest_model(device, **options)
    model.ema_network = copy.deepcopy(model.network)
    return model


CustomGenerativeModel.predict = predict
