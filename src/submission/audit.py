"""What is told of a submission without running it, and of its images: whether both are what the rules ask for."""

import ast
import json
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from src.common.cli import UserError
from src.common.files import PROJECT_ROOT, load_torch, tensor_bytes
from src.network import UNet
from src.submission.broker import Cost
from src.submission.contents import CHECKPOINT, CONFIG
from src.submission.failures import Failed

NEEDED = ("custom_model.py", CHECKPOINT, CONFIG)
CHECKPOINT_BYTES = 512 << 20  # the challenge's network is 235 MB in float32
CONFIG_BYTES = 64 << 10
EXTRA_BYTES = 128 << 10  # tensors beside the network's: tables of a schedule, not images
LITERAL_BYTES = 4096  # one text or bytes literal of the code
LITERAL_ITEMS = 2000  # constants in one list, tuple, set or dict
CODE_BYTES = 64 << 10  # the student's own code, compressed
FILE_BYTES = 1 << 20

SAME = 3.0  # two images whose pixels differ by less than this on average (of 255) are one
DUPLICATE_SHARE = 0.05
NEAR_SHARE = 0.1
LEAST_CHANGE = 1.0  # of 255, by which an image changes at least when the network's answers are shifted
SAME_SHARE = 0.1  # of a batch, that may change less


def check_files(top: Path) -> None:
    """Raise Failed where a file that every submission needs is absent."""
    for name in NEEDED:
        if not (top / name).is_file():
            raise Failed("missing_file", f"{name} is not in the submission")


def read_config(top: Path) -> dict[str, Any]:
    """The options in model_config.json. Raises Failed where it holds anything else than a small object."""
    file = top / CONFIG
    if file.stat().st_size > CONFIG_BYTES:
        raise Failed("stored_images", f"{CONFIG} has {file.stat().st_size} bytes, at most {CONFIG_BYTES} are allowed")
    try:
        config = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise Failed("missing_file", f"{CONFIG} is no JSON ({error})") from error
    if not isinstance(config, dict) or "device" in config:
        raise Failed("missing_file", f"{CONFIG}: expected an object of options without device")
    return config


def read_checkpoint(top: Path, network_options: dict[str, Any] | None = None) -> tuple[UNet, dict[str, torch.Tensor]]:
    """The challenge's network with the submission's weights, in evaluation mode, and the checkpoint's other tensors.

    network_options: of UNet, for challenges with a smaller network; whether it has the additional condition is told by the
    checkpoint. Only tensors are unpickled, so that nothing in the file runs.

    Raises Failed: unsafe_pickle, wrong_architecture (names, shapes, types or values that are not finite), stored_images (more
    than EXTRA_BYTES beside the network), missing_file for a damaged file.
    """
    file = top / CHECKPOINT
    _check_size(file)
    try:
        checkpoint = load_torch(file)
    except UserError as error:
        code = "unsafe_pickle" if "refused" in str(error) else "missing_file"
        raise Failed(code, f"{CHECKPOINT}: {str(error).partition(': ')[2]}") from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise Failed("missing_file", f"{CHECKPOINT}: no tensors under 'state_dict'")
    given = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
    extras = {name: value for name, value in state.items() if not name.startswith("network.")}
    if tensor_bytes(extras) > EXTRA_BYTES:
        largest = max(extras, key=lambda name: tensor_bytes(extras[name]))
        raise Failed(
            "stored_images",
            f"{tensor_bytes(extras)} bytes of tensors beside the network's (allowed: {EXTRA_BYTES}); the largest is {largest}",
        )
    network = UNet(**(network_options or {}), use_additional_condition=any(name.startswith("condition_") for name in given))
    expected = network.state_dict()
    different = [name for name in {**expected, **given} if _shape(expected, name) != _shape(given, name)]
    if different:
        name = different[0]
        raise Failed(
            "wrong_architecture",
            f"network.{name} is {_shape(given, name)}, the challenge's network has {_shape(expected, name)} "
            f"({len(different)} of {len(expected)} tensors differ)",
        )
    if not all(value.is_floating_point() and torch.isfinite(value).all() for value in given.values()):
        raise Failed("wrong_architecture", "the network's weights hold values that are no finite numbers")
    network.load_state_dict(given)
    # copies of their own: tensors in a file may be views of a larger one
    return network.eval().requires_grad_(False), {name: value.detach().clone() for name, value in extras.items()}


def check_code(folder: Path, names: list[str]) -> None:
    """Raise Failed where the Python files `names` of folder hold more than code: images could hide there.

    Files equal to this project's own of the same name count as nothing.
    """
    compressed = 0
    for name in names:
        data = (folder / name).read_bytes()
        own = PROJECT_ROOT / name
        if own.is_file() and own.read_bytes() == data:
            continue
        if len(data) > FILE_BYTES:
            raise Failed("stored_images", f"{name} has {len(data)} bytes of code, at most {FILE_BYTES} are allowed")
        compressed += len(zlib.compress(data, 9))
        try:
            tree = ast.parse(data)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise Failed("crashed", f"{name} is not Python ({error})") from error
        for node in ast.walk(tree):
            size = _literal_size(node)
            if size:
                raise Failed("stored_images", f"{name}, line {node.lineno}: a literal of {size}")
    if compressed > CODE_BYTES:
        raise Failed(
            "stored_images", f"the submission's own code takes {compressed} bytes compressed, at most {CODE_BYTES} are allowed"
        )


def measure_cost(network: UNet, image_shape: tuple[int, int, int]) -> Cost:
    """What one call of the network takes for one image, measured on the CPU on one thread."""
    device = next(network.parameters()).device
    network = network.to("cpu")
    x, t = torch.zeros(1, *image_shape), torch.zeros(1)
    condition = torch.zeros(1) if network.use_additional_condition else None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            with FlopCounterMode(display=False) as counter:  # its time is not taken: the first call is slower
                network(x, t, condition)
            start = time.process_time()
            network(x, t, condition)
            seconds = time.process_time() - start
    finally:
        torch.set_num_threads(threads)
        network.to(device)
    return Cost(counter.get_total_flops(), seconds)


# ----------------------------------------------------------------------------------------------------------- the images


def check_change(images: np.ndarray, shifted: np.ndarray, nfe: int) -> None:
    """Raise Failed where images (B, 3, H, W) hardly change when the network's answers are shifted."""
    changes = np.abs(images.astype(np.int16) - shifted).reshape(len(images), -1).mean(axis=1)
    same = int((changes < LEAST_CHANGE).sum())
    if same > SAME_SHARE * len(images):
        raise Failed(
            "stored_images",
            f"NFE {nfe}: {same} of {len(images)} images do not come from the network (other answers change one by "
            f"{changes.min():.2f} of 255)",
        )


def check_distinct(images: np.ndarray) -> float:
    """The share of images (N, 3, H, W) that are equal to an earlier one; Failed above DUPLICATE_SHARE."""
    distinct = len({image.tobytes() for image in images})
    share = 1 - distinct / len(images)
    if share > DUPLICATE_SHARE:
        raise Failed("stored_images", f"{len(images) - distinct} of {len(images)} images are equal to another")
    return share


def check_not_reference(images: np.ndarray, reference: np.ndarray) -> float:
    """The share of images (N, 3, H, W) that are a reference image (M, 3, H, W) but for noise; Failed above NEAR_SHARE.

    Compared are pixels; the nearest reference image by Euclidean distance stands for all.
    """
    flat, targets = (values.reshape(len(values), -1).astype(np.float32) for values in (images, reference))
    squares = (targets**2).sum(axis=1)
    near = 0
    for image in flat:
        nearest = np.argmin(squares - 2 * (targets @ image))
        near += np.abs(targets[nearest] - image).mean() < SAME
    share = near / len(images)
    if share > NEAR_SHARE:
        raise Failed("stored_images", f"{near} of {len(images)} images are validation images")
    return share


# ---------------------------------------------------------------------------------------------------------------- parts


def _check_size(file: Path) -> None:
    """Raise Failed for a checkpoint that is too large, packed or unpacked."""
    size = file.stat().st_size
    if zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as archive:
                size = max(size, sum(member.file_size for member in archive.infolist()))
        except (zipfile.BadZipFile, ValueError) as error:
            raise Failed("missing_file", f"{CHECKPOINT}: damaged ({error})") from error
    if size > CHECKPOINT_BYTES:
        raise Failed(
            "stored_images", f"{CHECKPOINT} holds {size / 1e6:,.0f} MB, at most {CHECKPOINT_BYTES / 1e6:,.0f} are allowed"
        )


def _shape(state: dict[str, torch.Tensor], name: str) -> str:
    return str(tuple(state[name].shape)) if name in state else "absent"


def _literal_size(node: ast.AST) -> str:
    """How large a literal is that is too large for code, in words; empty for all others."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)) and len(node.value) > LITERAL_BYTES:
        return f"{len(node.value)} characters"
    if isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value.bit_length() > 8 * LITERAL_BYTES:
        return f"{node.value.bit_length()} bits"
    items = len(node.elts) if isinstance(node, (ast.List, ast.Tuple, ast.Set)) else 0
    items = len(node.values) if isinstance(node, ast.Dict) else items
    return f"{items} items" if items > LITERAL_ITEMS else ""
