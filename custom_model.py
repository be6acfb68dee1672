"""Your model: what a student edits, and what the course's scripts load.

`CustomScheduler` and `CustomGenerativeModel` begin as rectified flow. Override what your method does differently; the
formulas they begin with are in `src/methods/rectified_flow.py`, `_flow.py` and `_paths.py`, and `docs/write_a_method.md` has a
worked example.
"""

import inspect
from dataclasses import dataclass, fields
from typing import Any

import torch

from src.methods import Method, get_method, register
from src.methods._paths import LinearPathScheduler
from src.methods.rectified_flow import RectifiedFlow
from src.network import UNet


class CustomScheduler(LinearPathScheduler):
    """How noise is added and removed. Override sample_timesteps, forward_process, reverse_process_step, get_target."""


@register("custom")
class CustomGenerativeModel(RectifiedFlow):
    """What is learned and how images are made. Override compute_loss, predict, sample.

    For the network's second scalar input, pass `condition=` (B,) to `self.network` in predict and set needs_condition = True
    (or train with --use_additional_condition).
    """

    Scheduler = CustomScheduler
    needs_condition = None

    @dataclass
    class Config(RectifiedFlow.Config):
        """Add your own options here: each field becomes a flag of train.py and is saved in model_config.json."""


NETWORK_OPTIONS = {
    name: parameter.default
    for name, parameter in inspect.signature(UNet).parameters.items()
    if name != "use_additional_condition"
}


def create_custom_model(device: str | torch.device = "cpu", method: str = "custom", **options: Any) -> Method:
    """Build a method with its network and scheduler, on a device.

    Args:
        method: a name of `src.methods.method_names()`; "custom" is this file's model.
        options: hyperparameters of the network (ch, ch_mult, attn, num_res_blocks, dropout, use_additional_condition: the
            challenge's by default), num_train_timesteps, and the fields of the method's Config.

    Raises:
        ValueError: an unknown method or option, naming the valid ones; a condition that the method would not use.
    """
    cls = get_method(method)
    method_options = [item.name for item in fields(cls.Config)]
    valid = [*NETWORK_OPTIONS, "use_additional_condition", "num_train_timesteps", *method_options]
    unknown = sorted(set(options) - set(valid))
    if unknown:
        raise ValueError(f"unknown options {', '.join(unknown)} for method {method}; valid are {', '.join(valid)}")

    asked = options.pop("use_additional_condition", False)
    if asked and cls.needs_condition is False:
        raise ValueError(f"method {method} has no use for the additional condition: leave use_additional_condition out")
    network = UNet(
        **{name: options.pop(name) for name in NETWORK_OPTIONS if name in options},
        use_additional_condition=bool(asked or cls.needs_condition),
    )
    return cls.from_options(network, **options).to(device)
