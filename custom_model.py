"""Your model: what you edit, and what the course's scripts load.

`CustomScheduler` and `CustomGenerativeModel` begin as rectified flow, whose code is in `src/methods/rectified_flow.py` and
`src/methods/shared/straight_path.py`. Override what your method does differently. `docs/write_a_method.md` has worked examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from src.challenges import Challenge, get_challenge
from src.methods import METHODS, Method, get_method, register
from src.methods.rectified_flow import RectifiedFlow
from src.methods.shared import LinearPathScheduler

MODEL_OPTIONS = ("use_additional_condition", "num_train_timesteps")  # of every model, beside its network's and its method's


class CustomScheduler(LinearPathScheduler):
    """How noise is added and removed. Override sample_timesteps, forward_process, reverse_process_step, get_target.

    `self.config` holds the options of CustomGenerativeModel.Config.
    """


@register("custom")
class CustomGenerativeModel(RectifiedFlow):
    """Override compute_loss (what is learned), predict (one call), sampling_step (one step of the sampler).

    The network's second scalar input is `condition=` (B,) of `self.network`. To use it, pass it in predict and set
    needs_condition = True, or train with --use_additional_condition.
    """

    Scheduler = CustomScheduler
    needs_condition = None

    @dataclass
    class Config(RectifiedFlow.Config):
        """Add your own options here. Each field is a flag of train.py and is saved in model_config.json, for example

        weight: float = option(2.0, "what it is, for --help", minimum=0)

        with `option` from src.methods.shared. Read it as self.config.weight.
        """


def create_custom_model(
    device: str | torch.device = "cpu", method: str = "custom", challenge: str | None = None, **options: Any
) -> Method:
    """Build a method with its network and scheduler, on a device.

    Args:
        method: a name of `src.methods.METHODS`; "custom" is this file's model.
        challenge: a name of `src.challenges.CHALLENGES`, whose network it is; by default the course's.
        options: hyperparameters of the network (for the U-Net ch, ch_mult, attn, num_res_blocks, dropout; the challenge's by
            default), use_additional_condition, num_train_timesteps, classes (the names of those that the network takes as
            labels 1, 2 ...; none by default), sample_shape (of one sample, where the data decide on it), and the fields of the
            method's Config.

    Raises:
        ValueError: an unknown method, challenge or option, naming the valid ones; a condition or classes that the method would
            not use; a network that cannot take samples of the shape.
    """
    cls, task = get_method(method), get_challenge(challenge).with_shape(options.pop("sample_shape", None))
    options = {cls.renamed_options.get(name, name): value for name, value in options.items()}
    network_options = [item.name for item in task.network_fields()]
    valid = [*network_options, *MODEL_OPTIONS, "classes", *(item.name for item in fields(cls.Config))]
    unknown = sorted(set(options) - set(valid))
    if unknown:
        raise ValueError(f"unknown options {', '.join(unknown)} for method {method}; valid are {', '.join(valid)}")

    condition = options.pop("use_additional_condition", False)
    if condition and cls.needs_condition is False:
        raise ValueError(f"method {method} has no use for the additional condition: leave use_additional_condition out")
    classes = check_classes(options.pop("classes", ()), method, task)
    network = task.build_network(
        **({"num_classes": len(classes)} if classes else {}),
        **{name: options.pop(name) for name in network_options if name in options},
        use_additional_condition=bool(condition or cls.needs_condition),
    )
    task.check_network(network)
    return cls.from_options(network, **options).to(device)


def check_classes(classes: Sequence[str], method: str, challenge: Challenge) -> Sequence[str]:
    """The classes as they are. Raises ValueError where there are some, and the method or the challenge takes no labels."""
    if classes and not get_method(method).takes_labels:
        able = [name for name, cls in METHODS.items() if cls.takes_labels]
        raise ValueError(f"method {method} takes no labels; those that do: {', '.join(able)}")
    if classes and not challenge.takes_classes:
        raise ValueError(f"the network of challenge {challenge.name} takes no labels")
    return classes
