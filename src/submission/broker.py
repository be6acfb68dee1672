"""Sampling a submission: its code in the sandbox, the network outside.

The worker asks for every call of the network by a message; the weights are held, the call is computed and counted here. So a
count cannot be forged, no call can be made elsewhere (the sandbox has no weights), and the submission needs no GPU. What
comes from the worker is bytes of a stranger: every length, type and shape is checked before it is used.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from src.challenges import Challenge, get_challenge
from src.common.devices import autocast
from src.common.guidance import with_labels
from src.common.images import to_uint8
from src.common.networks import takes_condition
from src.submission.failures import CODES, Failed, one_line
from src.submission.lineage import Call, shares
from src.submission.sandbox import Confined, Limits
from src.submission.weights import Weights
from src.submission.worker import DTYPES, LENGTHS, to_bytes

HEADER_BYTES = 1 << 16
FLOAT_TYPES = ("float32", "float64", "float16", "bfloat16")
PRECISIONS = ("float32", "float16", "bfloat16")
FLOP_SHARE = 0.02  # work beside the network's calls that an image may take, of one call

Shift = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Cost:
    """What one call of the network takes for one image: FLOP, and CPU seconds on one thread of this machine."""

    flop: float
    cpu_seconds: float


@dataclass(frozen=True)
class Model:
    """A submission ready to be sampled: its Python files, its options, its networks here, and its other tensors."""

    code: Path
    config: dict[str, Any]
    weights: Weights
    cost: Cost

    def to(self, device: torch.device) -> None:
        for network in self.weights.networks.values():
            network.to(device, memory_format=torch.channels_last)


@dataclass(frozen=True)
class Sampled:
    """A batch of a submission: images, uint8 (B, 3, H, W), and the share (B,) of each that comes from the network (lineage)."""

    images: np.ndarray
    shares: np.ndarray


class Broker:
    """One process of a submission and its network. A context manager, which starts and ends the process.

    Args:
        challenge: whose shape the images have; the course's if not given.
        dtype: of the autocast around sample(), as `sampling.py` has it.
        hidden: files and folders that a sandbox without bubblewrap has to cover.

    `shift`, where it is not None, changes the networks' answers: see audit.shift_by. After the start `method` is the
    submission's name for its method. `calls` counts calls of all networks times images; one image's part of it is its NFE.
    """

    def __init__(
        self,
        model: Model,
        limits: Limits,
        kind: str,
        challenge: Challenge | None = None,
        dtype: torch.dtype = torch.float32,
        hidden: tuple[Path, ...] = (),
    ):
        self.model, self.limits, self.kind = model, limits, kind
        self.challenge = challenge or get_challenge()
        self.image_shape = self.challenge.shape
        self.dtype, self.hidden = dtype, hidden
        self.networks = model.weights.networks
        self.shift: Shift | None = None
        self.device = next(next(iter(self.networks.values())).parameters()).device
        self.method, self.calls, self.images = "", 0, 0
        self.lineage: list[Call] = []
        self.waited = 0.0  # seconds, for all images of this process so far

    def __enter__(self) -> "Broker":
        self.confined = Confined(self.model.code, self.limits, self.kind, self.hidden)
        try:
            self._start()
        except BaseException:
            self.confined.kill()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.confined.kill()

    def sample(self, nfe: int, seeds: list[int], first: int = 0) -> Sampled:
        """Images of these seeds, one per seed, of nfe network calls each; of a network with classes, of each class in turn.

        first: the number of the first image in its run, from which its class follows as in sampling.py.

        Allowed are nfe calls, each on the whole batch, and a little work beside them. Raises Failed.
        """
        shape = (len(seeds), *self.image_shape)
        self.images += len(seeds)
        self.lineage.clear()
        limits = self.limits
        cpu = self._cpu_at_start + limits.cpu_seconds + self.images * limits.cpu_share * self.model.cost.cpu_seconds
        wait = min(limits.sample_seconds + len(seeds) * limits.sample_seconds_an_image, limits.run_seconds - self.waited)
        self.confined.allow(cpu, wait, "hidden_compute")
        bfloat16, count = self.dtype == torch.bfloat16, getattr(next(iter(self.networks.values())), "num_classes", 0)
        labels = [1 + number % count for number in range(first, first + len(seeds))] if count else None
        self._send({"kind": "sample", "shape": shape, "nfe": nfe, "seeds": seeds, "labels": labels, "bfloat16": bfloat16})
        made = 0
        while True:
            header, payload = self._receive(4 * math.prod(shape) * 8)
            if header["kind"] == "images":
                break
            made += 1
            if made > nfe:
                told = f"NFE {nfe}: the model made a network call number {made}"
                raise Failed("too_many_calls", f"{told}; sample() may make {nfe} for all images together, of all its networks")
            self._answer(header, payload, len(seeds), nfe)
        self.waited += wait - self.confined.wait_left
        self._check_flop(header)
        images = _tensors(header, payload, {"images": FLOAT_TYPES})["images"]
        if tuple(images.shape) != shape:
            raise Failed("wrong_output", f"sample() gave images {tuple(images.shape)}, expected {shape}")
        if not torch.isfinite(images).all():
            raise Failed("wrong_output", f"sample() gave values that are not finite at NFE {nfe}")
        return Sampled(to_uint8(images).numpy(), shares(self.lineage, images.float()).numpy())

    # ----------------------------------------------------------------------------------------------------------- parts

    def _start(self) -> None:
        weights = self.model.weights
        shapes = {
            prefix: {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
            for prefix, network in weights.networks.items()
        }
        zeros = [(name, str(value.dtype).removeprefix("torch."), list(value.shape)) for name, value in weights.zeros.items()]
        kind = f"{self.challenge.network.__module__}.{self.challenge.network.__qualname__}"
        about = {"code": self._code_view(), "model_config": self.model.config, "networks": shapes, "zeros": zeros}
        about["network_class"] = kind
        self._send({"kind": "setup", **about}, weights.extras)
        header, _ = self._receive(0, before_sampling=True)
        self.method = one_line(header.get("method", ""))
        usage = self.confined.check()
        self._cpu_at_start = usage.cpu_seconds

    def _code_view(self) -> str:
        return "/submission" if self.kind == "bubblewrap" else str(self.model.code.resolve())

    def _send(self, header: dict[str, Any], tensors: dict[str, torch.Tensor] | None = None) -> None:
        parts = [(name, *to_bytes(tensor.cpu())) for name, tensor in (tensors or {}).items()]
        header["tensors"] = {name: {"dtype": dtype, "shape": shape} for name, dtype, shape, _ in parts}
        text, payload = json.dumps(header).encode(), b"".join(data for *_, data in parts)
        self.confined.send(LENGTHS.pack(len(text), len(payload)) + text + payload)

    def _receive(self, most_bytes: int, before_sampling: bool = False) -> tuple[dict[str, Any], bytes]:
        """The worker's next message. Raises Failed for one that tells of a failure, or that is not expected now."""
        header_length, payload_length = LENGTHS.unpack(self.confined.receive(LENGTHS.size))
        if header_length > HEADER_BYTES:
            raise Failed("wrong_output", "a message of the model's process has no sense")
        try:
            header = json.loads(self.confined.receive(header_length))
            kind = header["kind"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Failed("wrong_output", "a message of the model's process has no sense") from error
        if kind == "error":
            code = header.get("code")
            known = isinstance(code, str) and code in CODES and code != "grader_error"
            raise Failed(code if known else "crashed", header.get("text", ""))
        if kind == "call" and before_sampling:
            raise Failed("too_many_calls", "the model called its network while it was built, before any image was asked for")
        if kind not in (("ready",) if before_sampling else ("call", "images")):
            raise Failed("wrong_output", "a message of the model's process was not expected now")
        if payload_length > most_bytes:
            raise Failed("wrong_output", f"{payload_length} bytes in one message, at most {most_bytes} are expected")
        return header, self.confined.receive(payload_length)

    def _answer(self, header: dict[str, Any], payload: bytes, batch: int, nfe: int) -> None:
        """Compute one call of a network, in the precision of the autocast that it stands in, count it, and send its result."""
        named = [header.get(key) for key in ("network", "precision")]
        if not all(isinstance(name, str) for name in named) or named[0] not in self.networks or named[1] not in PRECISIONS:
            raise Failed("wrong_output", "a message of the model's process has no sense")
        network, dtype = self.networks[named[0]], getattr(torch, named[1])
        types = {"x": FLOAT_TYPES, "timestep": DTYPES, "condition": DTYPES, "labels": ("int64",)}
        given = _tensors(header, payload, types)
        x, timestep, condition = given.get("x"), given.get("timestep"), given.get("condition")
        if x is None or timestep is None:
            raise Failed("wrong_output", "a network call without x or timestep")
        rows = x.shape[0] if x.ndim else 0
        if tuple(x.shape) != (rows, *self.image_shape) or rows < 1:
            raise Failed(
                "wrong_output", f"a network call on {tuple(x.shape)}, expected (B, {', '.join(map(str, self.image_shape))})"
            )
        if rows > batch:
            raise Failed("too_many_calls", f"a network call on {rows} images, {batch} were asked for")
        if rows < batch:
            raise Failed("wrong_output", f"a network call on {rows} of {batch} images: call it on the whole batch at once")
        for scalars in (timestep, condition):
            if scalars is not None and tuple(scalars.shape) not in ((rows,), (1,)):
                raise Failed(
                    "wrong_output", f"a network call with a time or condition {tuple(scalars.shape)}, expected ({rows},)"
                )
        if not takes_condition(network):
            condition = None  # ignored, as by the course's network
        elif condition is None:
            raise Failed("crashed", "the network has the additional condition, and a call gave it none")
        labels, count = given.get("labels"), getattr(network, "num_classes", 0)
        if labels is not None and not (tuple(labels.shape) == (rows,) and labels.min() >= 0 and labels.max() <= count):
            raise Failed("wrong_output", f"a network call with labels that are not {rows} of 0 to {count}")
        known = with_labels(labels.to(self.device) if labels is not None and count else None)
        times = (value if value is None else value.to(self.device).expand(rows) for value in (timestep, condition))
        try:
            with torch.inference_mode(), autocast(self.device, dtype):
                answer = network(x.to(self.device), *times, **known)
                answer = answer if self.shift is None else self.shift(answer)
        except torch.OutOfMemoryError:
            raise  # ours
        except (RuntimeError, ValueError) as error:
            raise Failed("crashed", f"a network call on {x.dtype}: {error}") from error
        call = Call(x.float(), answer.float().cpu())
        if not (torch.isfinite(call.x).all() and torch.isfinite(call.answer).all()):
            raise Failed("wrong_output", f"NFE {nfe}: a network call on values that are not finite, or its answer is not")
        self.calls += rows
        self.lineage.append(call)
        self._send({"kind": "answer"}, {"answer": answer})

    def _check_flop(self, header: dict[str, Any]) -> None:
        """Hold the worker's own count of its products and convolutions against what is allowed beside the calls."""
        flop, allowed = header.get("flop"), FLOP_SHARE * self.model.cost.flop * self.images
        if not isinstance(flop, (int, float)) or not 0 <= flop < 1e30:
            raise Failed("wrong_output", "a message of the model's process has no sense")
        if flop > allowed:
            raise Failed(
                "hidden_compute",
                f"{flop / 1e9:.3g} GFLOP beside the network's calls for {self.images} images (allowed: {allowed / 1e9:.3g})",
            )


def _tensors(header: dict[str, Any], payload: bytes, expected: dict[str, tuple[str, ...]]) -> dict[str, torch.Tensor]:
    """The tensors of a message, where each is of an expected name and type and they fill the payload exactly."""
    tensors, start = {}, 0
    described = header.get("tensors")
    if not isinstance(described, dict):
        raise Failed("wrong_output", "a message of the model's process has no sense")
    for name, value in described.items():
        dtype, shape = (value.get("dtype"), value.get("shape")) if isinstance(value, dict) else (None, None)
        sound = isinstance(shape, list) and len(shape) <= 8 and all(type(n) is int and 0 < n < 2**32 for n in shape)
        if name not in expected or not sound:
            raise Failed("wrong_output", "a message of the model's process has no sense")
        if dtype not in expected[name]:
            raise Failed("wrong_output", f"{one_line(name)} is {one_line(dtype)}, expected one of {', '.join(expected[name])}")
        kind = getattr(torch, dtype)
        size = math.prod(shape) * kind.itemsize
        part = bytearray(payload[start : start + size])
        if len(part) != size:
            raise Failed("wrong_output", "a message of the model's process is shorter than it says")
        tensors[name] = torch.frombuffer(part, dtype=kind).reshape(shape)
        start += size
    if start != len(payload):
        raise Failed("wrong_output", "a message of the model's process is longer than it says")
    return tensors
