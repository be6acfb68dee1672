"""A submission's checkpoint: which of its tensors are networks of the challenge, and which others its sampler may see.

The networks stay with the grader. Small tensors beside them, the tables of a schedule, go into the sandbox; large ones, weights
that only training needs, are zeros there.
"""

import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.challenges import CONDITION, NUM_CLASSES, Challenge, get_challenge
from src.common.checkpoints import plain_name, state_of
from src.common.cli import UserError
from src.common.files import load_torch
from src.submission import bounds
from src.submission.failures import Failed, blamed, quoted
from src.submission.handin.archive import open_zip
from src.submission.handin.contents import CHECKPOINT

OLD_FORMAT = b"\x80"
PLAIN = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds.

    networks: prefix of their names -> the network in evaluation mode; as read_tensors gives them, of plain tensors alone:
    whether it has the condition, its number of classes, and its tensors by its own names. extras: small tensors by their full
    names. zeros: the names of large ones, with stand-ins that take no memory. remarks: lines for the author.
    """

    networks: dict[str, Any]
    extras: dict[str, torch.Tensor]
    zeros: dict[str, torch.Tensor] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def read_tensors(top: Path, network_options: dict[str, Any] | None = None, challenge: Challenge | None = None) -> Weights:
    """What an unpacked submission's checkpoint holds. Nothing in the file runs: only tensors are read.

    network_options: of the challenge's network, where they are not its own defaults; whether a network has the additional
    condition, and how many classes, follows from its names and shapes. challenge: the course's if not given.

    Raises Failed: missing_file, unsafe_pickle, bad_checkpoint, wrong_architecture, stored_images, memory_limit.
    """
    with blamed("bad_checkpoint", CHECKPOINT, "cannot be read"):
        state = _read_state(top / CHECKPOINT)
        for name, value in state.items():
            if fault := _fault(value):
                raise Failed("bad_checkpoint", f"{CHECKPOINT}: {quoted(name)} is {fault}; save model.state_dict()")
        prefixes = _find_networks(state, _builder(network_options, challenge), challenge or get_challenge())
        if len(prefixes) > bounds.NETWORKS:
            raise _wrong(f"{CHECKPOINT} holds {len(prefixes)} networks, at most {bounds.NETWORKS} are taken")
        networks = {}
        for prefix, (condition, num_classes, names) in prefixes.items():
            networks[prefix] = condition, num_classes, {name: state.pop(prefix + name).detach() for name in names}
            for name, value in networks[prefix][2].items():
                holds = f"{CHECKPOINT}: {quoted(prefix + name)} holds"
                if not value.is_floating_point():
                    todo = "save float weights, with the scales of a quantised model multiplied in"
                    raise _wrong(f"{holds} whole numbers ({value.dtype}); {todo}")
                if not torch.stack(value.aminmax()).isfinite().all():  # a twentieth of the time that isfinite takes for all
                    raise _wrong(f"{holds} values that are not finite")
        extras, zeros = _divide(state)
    remarks = []
    if len(networks) > 1:
        remarks.append(f"{len(networks)} networks ({', '.join(map(_title, networks))}): calls of all of them count")
    if zeros:
        size = sum(value.nbytes for value in zeros.values()) / 1e6
        names = f"{size:,.1f} MB, such as {quoted(next(iter(zeros)))}"
        remarks.append(f"{len(zeros)} tensors beside the networks ({names}) are zeros while sampling")
    return Weights(networks, extras, zeros, remarks)


def build_weights(
    weights: Weights, network_options: dict[str, Any] | None = None, challenge: Challenge | None = None
) -> Weights:
    """What read_tensors has read with the same options, with its networks built."""
    build, networks = _builder(network_options, challenge), {}
    for prefix, (condition, num_classes, state) in weights.networks.items():
        networks[prefix] = build(condition, num_classes).eval().requires_grad_(False)
        networks[prefix].load_state_dict(state)
    return replace(weights, networks=networks)


def _wrong(text: str) -> Failed:
    return Failed("wrong_architecture", text)


def _builder(network_options: dict[str, Any] | None, challenge: Challenge | None) -> Callable[[bool, int], nn.Module]:
    """What makes the challenge's network: with the condition or without, of so many classes."""
    challenge, options = challenge or get_challenge(), network_options or {}

    def build(condition: bool, num_classes: int) -> nn.Module:
        classes = {NUM_CLASSES: num_classes} if num_classes else {}
        return challenge.build_network(**options, **classes, **{CONDITION: condition})

    return build


def _read_state(file: Path) -> dict[str, torch.Tensor]:
    """The names and tensors of the file. Raises Failed where it is too large, damaged, or holds anything else."""
    with blamed("missing_file", CHECKPOINT, "is damaged or no checkpoint"):
        _check_file(file)
        try:
            state = dict(state_of(load_torch(file), CHECKPOINT))
        except UserError as error:
            cause, text = error.__cause__, str(error).partition(": ")[2]
            if cause is None:  # words of ours alone
                raise Failed("missing_file", f"{CHECKPOINT}: {text}") from error
            if not isinstance(cause, pickle.UnpicklingError):
                raise cause from error
            named = re.search(r"holds a (\S+) and", text)
            what = f"it holds {quoted(named[1])}" if named else "it is no plain checkpoint of tensors"
            what = f"{CHECKPOINT}: {what} and may run code when loaded"
            raise Failed("unsafe_pickle", f"{what}; save tensors and numbers alone, as model.state_dict() has them") from error
    if not all(isinstance(name, str) for name in state):
        raise Failed("bad_checkpoint", f"{CHECKPOINT}: its tensors have no names; save model.state_dict()")
    return state


def _check_file(file: Path) -> None:
    """Raise Failed for a file that is too large, packed or unpacked, or whose list of tensors is."""
    sizes = [("the file", file.stat().st_size, bounds.CHECKPOINT_BYTES)]
    if zipfile.is_zipfile(file):
        with open_zip(file) as archive:
            members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise Failed("bad_checkpoint", f"{CHECKPOINT}: its parts are compressed; torch.save stores them as they are")
        sizes.append(("its tensors", sum(member.file_size for member in members), bounds.CHECKPOINT_BYTES))
        lists = [member.file_size for member in members if member.filename.endswith(".pkl")]
        sizes += [("its list of tensors", size, bounds.PICKLE_BYTES) for size in lists]
    elif file.open("rb").read(1) == OLD_FORMAT:
        raise Failed("bad_checkpoint", f"{CHECKPOINT}: in torch's format of before 1.6; save it anew with torch.save")
    for what, size, most in sizes:
        if size > most:
            takes = f"{what} takes {size / 1e6:,.0f} MB, at most {most / 1e6:,.0f} are read"
            raise Failed("bad_checkpoint", f"{CHECKPOINT}: {takes}")


def _fault(value: torch.Tensor) -> str:
    """What is odd about a tensor, in words; empty for a plain one, all of whose values lie in the file."""
    if value.layout != torch.strided:
        return f"sparse ({value.layout})"
    if value.device.type != "cpu":
        return f'on the device "{value.device}", without values'
    if value.is_quantized:
        return "quantised"
    if value.dtype not in PLAIN:
        return f"of type {value.dtype}"
    expanded = value.nbytes > value.untyped_storage().nbytes()
    return "expanded: it has more values than the file holds of it" if expanded else ""


def _shapes(build: Callable[[bool, int], nn.Module], condition: bool, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the network that it builds."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in build(condition, num_classes).state_dict().items()}


def _find_networks(
    state: dict[str, torch.Tensor], build: Callable[[bool, int], nn.Module], challenge: Challenge
) -> dict[str, tuple[bool, int, list[str]]]:
    """Prefix -> whether it has the condition, its number of classes and its tensors' names, of every network in the state.

    Raises Failed where there is none.
    """
    found, faults = {}, []
    mark = min((name for name in _shapes(build, False, 0) if name.endswith("weight")), key=len)  # stands at the network's top
    candidates = sorted(name.removesuffix(mark) for name in state if name.endswith(mark))
    if len(candidates) > bounds.CANDIDATES:
        raise _wrong(f"{CHECKPOINT}: {len(candidates)} names end in {mark}, at most {bounds.CANDIDATES} may")
    for prefix in candidates:
        shapes = {name.removeprefix(prefix): tuple(value.shape) for name, value in state.items() if name.startswith(prefix)}
        kind = any(name.startswith("condition_") for name in shapes), _num_classes(shapes, challenge)
        expected = _shapes(build, *kind)
        if all(shapes.get(name) == shape for name, shape in expected.items()):
            found[prefix] = *kind, list(expected)
        else:
            faults.append((prefix, shapes, expected))
    main = [fault for fault in faults if plain_name(fault[0]) == "network"]
    if found and not main:
        return found
    if not faults:
        raise _wrong(f"{CHECKPOINT} holds no network of the challenge: no name ends in {mark}")
    prefix, shapes, expected = (main or faults)[0]
    words = {
        "lacks": [name for name in expected if name not in shapes],
        "has in addition": [name for name in shapes if name not in expected],
        "has in another shape": [name for name in expected if name in shapes and shapes[name] != expected[name]],
    }
    what = ", ".join(f"{word} {len(names)} tensors ({quoted(names[0])})" for word, names in words.items() if names)
    for name in words["has in another shape"][:1]:
        what += f"; {quoted(name)} is {shapes[name]}, expected {expected[name]}"
    raise _wrong(f"{_title(prefix)} is not the challenge's: it {what}")


def _num_classes(shapes: dict[str, tuple[int, ...]], challenge: Challenge) -> int:
    """Of a network of these names and shapes, whose first label is "no class"; 0 where the challenge has none."""
    rows = shapes.get("class_embedding.weight", ())[:1]
    if not rows or not challenge.takes_classes:
        return 0
    return len(challenge.classes) or max(rows[0] - 1, 0)


def _divide(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What the sandbox sees of the tensors beside the networks, the smallest first; and zeros instead of the others."""
    sizes = {name: value.nbytes for name, value in state.items()}
    if sum(sizes.values()) > bounds.OTHER_BYTES:
        most = f"at most {bounds.OTHER_BYTES / 1e6:,.0f} are allowed; the largest is {quoted(max(sizes, key=sizes.get))}"
        what = f"{sum(sizes.values()) / 1e6:,.0f} MB of tensors belong to no network of the challenge"
        raise Failed("stored_images", f"{what}, {most}")
    extras, zeros, left = {}, {}, bounds.EXTRA_BYTES
    for name in sorted(state, key=sizes.get):
        value, size = state[name], sizes[name]
        if size <= left:
            left -= size
            extras[name] = value.detach().clone()  # tensors in a file may be views of a larger one
        elif value.is_floating_point():
            zeros[name] = torch.zeros((), dtype=value.dtype).expand(value.shape)
        else:
            most = f"whole numbers may take {bounds.EXTRA_BYTES:,}"
            raise Failed("stored_images", f"{quoted(name)} holds {size:,} bytes of {value.dtype}; {most}")
    return extras, zeros


def _title(prefix: str) -> str:
    return quoted(prefix.rstrip(".")) if prefix.rstrip(".") else "the network"
