"""What every script shares: seeds, images, checkpoints, devices, files written whole, and errors a user can act on.

The first six functions are the course's contract. Methods and `custom_model.py` use nothing else of this file, so a
submission also runs where a course has put its own `src/utils.py` in place.
"""

import argparse
import contextlib
import json
import math
import os
import pickle
import random
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image, ImageDraw

PROJECT_ROOT = Path(__file__).resolve().parents[1]


# ---------------------------------------------------------------------------------------------------- the contract


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # seeds CUDA too


def get_current_time() -> str:
    """The local time as MM-DD-HHMMSS, which names a run's folder."""
    return datetime.now().strftime("%m-%d-%H%M%S")


def expand_t(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Reshape t (B,) to (B, 1, ..., 1) so that it multiplies x (B, ...)."""
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def tensor_to_pil_image(tensor: torch.Tensor) -> Image.Image | list[Image.Image]:
    """Images in [-1, 1] as 8-bit PIL images: clamp, scale, round.

    tensor (B, 3, H, W) gives a list of B images, also for B = 1; (3, H, W) gives one image.
    """
    if tensor.ndim not in (3, 4):
        raise ValueError(f"expected (B, 3, H, W) or (3, H, W), got {tuple(tensor.shape)}")
    pixels = to_uint8(tensor).movedim(-3, -1).cpu().numpy()
    return Image.fromarray(pixels) if tensor.ndim == 3 else [Image.fromarray(image) for image in pixels]


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


# -------------------------------------------------------------------------------------------------- errors, scripts


class UserError(Exception):
    """A mistake the user can mend. Its text says what was expected, what came and what to do; scripts print no traceback."""


class Parser(argparse.ArgumentParser):
    """The scripts' argument parser: flags in full only, defaults in the help, a mistake in one line and exit code 2."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main: a UserError ends in one line and exit code 2, Ctrl-C in one line and exit code 130."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def number(kind: type[int] | type[float], minimum: float = -math.inf) -> Callable[[str], int | float]:
    """An argparse type: a finite number of this kind, at least minimum."""

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= minimum):
            bound = "" if minimum == -math.inf else f" of at least {minimum:g}"
            raise argparse.ArgumentTypeError(f"expected a {'whole ' if kind is int else ''}number{bound}, got {text!r}")
        return value

    return parse


# ------------------------------------------------------------------------------------------------------------ files


def cache_dir() -> Path:
    """Where prepared arrays, weights and features are kept: $CHALLENGE_CACHE, by default data/cache of the project."""
    return Path(os.environ.get("CHALLENGE_CACHE") or PROJECT_ROOT / "data" / "cache")


@contextlib.contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside path for a file or folder, and rename it to path if the block ends well.

    What stood at path before is replaced. Nothing half-written is left behind.

    Raises UserError where the disk refuses (full, read-only, no permission).
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if partial.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def save_torch(value: Any, path: str | Path) -> None:
    """torch.save that leaves either the whole file, safely on the disk, or none.

    Raises UserError, telling how much was needed, where the disk refuses.
    """
    with write_whole(path) as partial:
        try:
            torch.save(value, partial)
            with open(partial, "r+b") as file:
                os.fsync(file.fileno())
        except (RuntimeError, OSError) as error:  # torch's own writer hides the reason in a RuntimeError
            needed, free = tensor_bytes(value) / 1e6, shutil.disk_usage(partial.parent).free / 1e6
            reason = str(error).splitlines()[0]
            raise OSError(f"{reason} (needed {needed:,.1f} MB, {free:,.1f} MB are free on the disk)") from error


def tensor_bytes(value: Any) -> int:
    """The bytes of all tensors in nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        value = value.values()
    return sum(map(tensor_bytes, value)) if isinstance(value, Iterable) and not isinstance(value, str) else 0


def load_torch(path: str | Path, map_location: str | torch.device = "cpu") -> Any:
    """torch.load with weights_only=True. Raises UserError where path is absent, damaged or holds more than tensors."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about an odd pickle, which ends in the error below
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: refused, it is not a plain checkpoint of tensors (it may run code when loaded)") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]  # an empty file's EOFError has no words
        raise UserError(f"{path}: damaged or not a checkpoint ({reason})") from error


def load_json(path: str | Path) -> Any:
    """Parse a JSON file. Raises UserError where it is absent or malformed."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file {path}")
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: malformed JSON ({error})") from error


def load_json_lines(path: str | Path) -> list[Any]:
    """The values of a file of one JSON value a line, as a log is; of an absent file none.

    A last line that a killed run left unfinished is dropped. Raises UserError for another that is damaged.
    """
    path = Path(path)
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise UserError(f"{path}: line {number} is damaged: {error}") from error
    return rows


# ----------------------------------------------------------------------------------------------------------- images


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] as uint8 in 0..255 of the same shape: clamp, scale, round."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels in 0..255 as float32 in [-1, 1] of the same shape."""
    return pixels.float() / 127.5 - 1


def image_seeds(seed: int, first: int, count: int) -> list[int]:
    """One 63-bit seed for each of the images first, first+1, ... of a run with this seed, whatever the batch size."""
    return [int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> 1) for i in range(first, first + count)]


def contact_sheet(rows: Sequence[np.ndarray], labels: Sequence[str], scale: int = 2) -> Image.Image:
    """A picture of labelled rows of images. rows: uint8 arrays (N, 3, H, W); scale: enlargement in whole pixels."""
    margin = 8 + max(7 * len(label) for label in labels)
    count, _, height, width = rows[0].shape
    sheet = Image.new("RGB", (margin + count * width * scale, len(rows) * height * scale), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (row, label) in enumerate(zip(rows, labels, strict=True)):
        strip = Image.fromarray(np.concatenate(list(row), axis=2).transpose(1, 2, 0))
        sheet.paste(strip.resize((strip.width * scale, strip.height * scale), Image.NEAREST), (margin, y * height * scale))
        draw.text((4, (y + 0.5) * height * scale), label, fill="black", anchor="lm")
    return sheet


# ---------------------------------------------------------------------------------------------- devices and precision


def resolve_device(name: str) -> torch.device:
    """The device of this name; where cuda is asked for and absent, says so and gives the CPU."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}; expected cpu, cuda, cuda:0 ... or mps") from error
    if device.type == "cuda":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a driver that is absent is what the next line says
            available = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not available:
            print("no CUDA device found: running on the CPU")
            return torch.device("cpu")
        if (device.index or 0) >= available:
            raise UserError(f"{name} was asked for, but this machine has {available} CUDA device(s)")
    return device


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 matrices itself, so that it is faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(words & {"amx_bf16", "avx512_bf16", "bf16"})


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """auto | bf16 | fp32 -> the dtype of the network's matrix products; auto is bf16 where the processor has it."""
    if name == "auto":
        return torch.bfloat16 if has_native_bfloat16(device) else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[name]


def precision_name(dtype: torch.dtype) -> str:
    """float32, bfloat16."""
    return str(dtype).removeprefix("torch.")


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """The autocast context of this dtype; for float32 a context that does nothing."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def peak_memory(device: torch.device) -> int | None:
    """The largest number of bytes held so far: on a GPU by its tensors, else by the process. None where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(told["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
