"""A model's weights and its options beside them: written, and read without trust."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from src.common.cli import UserError
from src.common.files import load_json, load_torch, save_torch, write_whole


def save_model(
    model: torch.nn.Module, checkpoint_path: str | Path, model_config: dict[str, Any], config_path: str | Path | None = None
) -> None:
    """Write {"state_dict": ...} to checkpoint_path and model_config as JSON beside it (or to config_path).

    Both files appear whole or not at all. Raises UserError if the disk refuses them.
    """
    checkpoint_path = Path(checkpoint_path)
    config_path = Path(config_path) if config_path else checkpoint_path.parent / "model_config.json"
    save_torch({"state_dict": model.state_dict()}, checkpoint_path)
    with write_whole(config_path) as partial:
        partial.write_text(json.dumps(model_config, indent=2) + "\n")


def load_model(
    checkpoint_path: str | Path,
    create_model_fn: Callable[..., torch.nn.Module],
    device: str = "cpu",
    config_path: str | Path | None = None,
) -> torch.nn.Module:
    """Build create_model_fn(device=device, **model_config) and load the checkpoint strictly into it.

    The configuration is read from config_path, by default model_config.json beside the checkpoint. Only tensors are
    unpickled (weights_only), so a checkpoint cannot run code. Raises UserError where a file is absent, damaged or of
    another model.
    """
    checkpoint_path = Path(checkpoint_path)
    config_path = Path(config_path) if config_path else checkpoint_path.parent / "model_config.json"
    checkpoint = load_torch(checkpoint_path, map_location=device)
    model_config = load_json(config_path)
    if not isinstance(model_config, dict):
        raise UserError(f"{config_path}: expected a JSON object of options, got {type(model_config).__name__}")

    try:
        model = create_model_fn(device=device, **model_config)
    except (TypeError, ValueError) as error:
        raise UserError(f"{config_path}: these options build no model: {error}") from error

    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{checkpoint_path}: not a model checkpoint (no tensors under 'state_dict')")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).replace("\n", " ").replace("\t", "")
        raise UserError(f"{checkpoint_path} does not fit the model of {config_path}: {reason[:300]}") from error
    return model
