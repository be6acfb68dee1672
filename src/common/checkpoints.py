"""A model's weights and its options beside them: written, and read without trust."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from src.common.cli import UserError
from src.common.files import load_json, load_torch, save_json, save_torch

MODEL_CONFIG = "model_config.json"  # stands beside a checkpoint
WRAPPERS = {"_orig_mod", "module"}


def save_model(
    model: torch.nn.Module,
    checkpoint_path: str | Path,
    model_config: dict[str, Any],
    config_path: str | Path | None = None,
    **entries: Any,
) -> None:
    """Write {"state_dict": ...} with further entries, such as step, and model_config as JSON, by default beside it.

    Both files appear whole or not at all. Raises UserError if the disk refuses them.
    """
    checkpoint_path = Path(checkpoint_path)
    config_path = Path(config_path) if config_path else checkpoint_path.parent / MODEL_CONFIG
    save_torch({"state_dict": model.state_dict(), **entries}, checkpoint_path)
    save_json(model_config, config_path)


def load_model(
    checkpoint_path: str | Path,
    create_model_fn: Callable[..., torch.nn.Module],
    device: str = "cpu",
    config_path: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> torch.nn.Module:
    """Build create_model_fn(device=device, **model_config) and load the checkpoint strictly into it.

    options: instead of those of the configuration, which is read from config_path, by default model_config.json beside the
    checkpoint; where that is absent, the model has its defaults. Only tensors are unpickled (weights_only), so a checkpoint
    cannot run code. Raises UserError where a file is absent, damaged or of another model.
    """
    state = state_of(load_torch(checkpoint_path, map_location=device), checkpoint_path)
    config_file = config_path or Path(checkpoint_path).parent / MODEL_CONFIG
    model_config = read_model_config(checkpoint_path, config_path)
    if model_config is None:
        print(f"no {config_file}: the model has its default options")
    try:
        model = create_model_fn(device=device, **{**(model_config or {}), **(options or {})})
    except (TypeError, ValueError) as error:
        raise UserError(f"{config_file}: these options build no model: {error}") from error
    own = model.state_dict()
    state = fit_names(state, own)
    if mismatch := describe_mismatch(state, own):
        raise UserError(f"{checkpoint_path} does not fit the model of {config_file}: {mismatch}")
    model.load_state_dict(state)
    return model


def read_model_config(checkpoint_path: str | Path, config_path: str | Path | None = None) -> dict[str, Any] | None:
    """The options in config_path, or in model_config.json beside a checkpoint; None where neither is there.

    Raises UserError where config_path is absent, or the file is malformed.
    """
    file = config_path or Path(checkpoint_path).parent / MODEL_CONFIG
    if not config_path and not file.is_file():
        return None
    config = load_json(file)
    if not isinstance(config, dict):
        raise UserError(f"{file}: expected a JSON object of options, got {type(config).__name__}")
    return config


def state_of(checkpoint: Any, path: str | Path) -> dict[str, torch.Tensor]:
    """The names and tensors of a loaded checkpoint: under "state_dict", or the whole of it. UserError where it holds none."""
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: not a model checkpoint (no tensors under 'state_dict')")
    return state


def plain_name(name: str) -> str:
    """The name of a tensor without what torch.compile (_orig_mod) and DataParallel (module) put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def fit_names(state: dict[str, torch.Tensor], own: Iterable[str]) -> dict[str, torch.Tensor]:
    """The state with the names of a model, `own`, where they differ only by what torch.compile and DataParallel add."""
    names = {**{plain_name(name): name for name in own}, **{name: name for name in own}}
    return {names.get(name, names.get(plain_name(name), name)): value for name, value in state.items()}


def _differences(state: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> tuple[list[str], list[str], list[str]]:
    """The names that a state lacks of a model's own, those that it has in addition, and those of another shape."""
    other = [name for name in own if name in state and state[name].shape != own[name].shape]
    return [name for name in own if name not in state], [name for name in state if name not in own], other


def describe_mismatch(state: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> str:
    """How a checkpoint's names and shapes differ from a model's own, in words; empty where they do not."""
    missing, strange, other = _differences(state, own)
    parts = [
        f"{words} {len(names)} (such as {names[0]})"
        for words, names in (("tensors missing:", missing), ("tensors that the model lacks:", strange))
        if names
    ]
    if other:
        given, expected = (tuple(each[other[0]].shape) for each in (state, own))
        parts.append(f"tensors of another shape: {len(other)} ({other[0]} is {given}, expected {expected})")
    return "; ".join(parts)


def take_weights(network: torch.nn.Module, given: dict[str, torch.Tensor]) -> None:
    """Load another network's state_dict; layers of the additional condition may be in one of them alone.

    Raises ValueError, naming a parameter, where the networks differ in anything else.
    """
    own, optional = network.state_dict(), "condition_"
    given = {name: value for name, value in given.items() if name in own or not name.startswith(optional)}
    absent, strange, other = _differences(given, own)
    absent = [name for name in absent if not name.startswith(optional)]
    for names, words in ((absent, "lacks"), (strange, "has in addition"), (other, "has in another shape")):
        if names:
            raise ValueError(f"of another network: it {words} {len(names)} parameters, such as {names[0]}")
    network.load_state_dict(given, strict=False)
