"""Beginning from another run: its model as a teacher, or its network's weights."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from src.common.checkpoints import load_model, plain_name, state_of, take_weights
from src.common.cli import UserError
from src.common.files import load_torch
from src.methods.shared.method import Method
from src.runs.folder import Run, checkpoint_of


def load_teacher(source: Path, image_shape: Sequence[int], create_model: Callable[..., Method], device: torch.device) -> Method:
    """The model of another run, to learn from: source is its folder, or a checkpoint with model_config.json beside it.

    Raises UserError where it is absent or damaged, or the run says that its images had another shape than image_shape.
    """
    theirs = Run.of(source).sample_shape
    if theirs is not None and theirs != tuple(image_shape):
        raise UserError(f"{source} was trained on images of shape {theirs}; here they are {tuple(image_shape)}")
    return load_model(checkpoint_of(source), create_model, device)


def give_teacher(model: Method, source: Path, image_shape: Sequence[int], create_model: Callable[..., Method]) -> str:
    """Let the model learn from the run or checkpoint `source`, and start from its weights where they mean the same.

    Returns which of the two it was, in a line. Raises UserError where there is no such model, it cannot teach this
    method, or it was trained at another resolution.
    """
    try:
        if not model.takes_teacher:
            raise ValueError(f"{type(model).__name__} learns from data alone and takes no teacher")
        teacher = load_teacher(source, image_shape, create_model, model.device)
        model.set_teacher(teacher)
        same = model.start_from(teacher)
    except ValueError as error:
        raise UserError(f"--teacher {source}: {error}") from error
    if same:
        return f"the network starts from the teacher's weights ({source})"
    return f"the network starts anew: what it predicts ({model.parameterization}) is not what its teacher predicts"


def init_network(network: nn.Module, source: Path) -> None:
    """Start from the network of another run, of whatever method: source is its folder or one of its checkpoints.

    A bare state dict is taken too, and a network under another name where it is the only one. The layers of the additional
    condition keep their fresh weights where the source has none, and are left out where it has more. Raises UserError where the
    source is no checkpoint or its network has another shape.
    """
    path = checkpoint_of(source)
    state = {plain_name(name): value for name, value in state_of(load_torch(path), path).items()}
    mark = next(iter(network.state_dict()))  # stands at the top of every network
    prefixes = [name.removesuffix(mark) for name in state if name == mark or name.endswith(f".{mark}")]
    prefix = prefixes[0] if len(prefixes) == 1 else "network."
    given = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    try:
        take_weights(network, given)
    except ValueError as error:
        raise UserError(f"{path} is {error}") from error


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
