"""A submission in its sandbox: its plans, and its images where its sampler runs by its own code.

The weights never enter the sandbox. A plan is read with bounds and run here (`run_plan`). Where a sampler runs by its own code,
the worker asks for every call of the network by a message, and the call is computed and counted here. What comes from the
worker is bytes of a stranger: every length, type and shape is checked before it is used.
"""

import builtins
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from src.challenges import Challenge
from src.common.classes import labels_in_turn
from src.common.devices import autocast
from src.common.guidance import with_labels
from src.common.networks import takes_condition
from src.submission.bounds import PLAN_BYTES
from src.submission.failures import CODES, Failed, one_line, quoted
from src.submission.plan.operations import BadPlan, Plan
from src.submission.plan.read import read
from src.submission.plan.replay import Law, OtherAnswer, replay
from src.submission.plan.rules import check
from src.submission.sandbox import Confined, Limits
from src.submission.weights import Weights
from src.submission.worker import DTYPES, LENGTHS, to_bytes

COURSE_SEED = 42  # the course's script seeds once, then makes the model, then all images
HEADER_BYTES = 1 << 16
MOST_PLANS = 4  # of a sampler that loops over its images: the grader's batches and the course's, and the last of each
FLOAT_TYPES = ("float32", "float64", "float16", "bfloat16")
PRECISIONS = ("float32", "float16", "bfloat16")
KINDS = {  # codes of a worker's own checks -> what is told to all
    "wrong_architecture": "a network of its model is not that of its checkpoint: of another class, absent, or of other shapes",
    "wrong_output": "sample() gave no images of the shape asked for",
}
SENSELESS = "a message of the model's process has no sense"


class Plans:
    """The plans of a sampler at one NFE: one for any number of images, or one for each of some numbers.

    Raises BadPlan where there are none, or their calls differ.
    """

    def __init__(self, plans: list[Plan]):
        self._plans, self._proved = {plan.batch: plan for plan in plans}, {plan.batch for plan in plans}
        if len({plan.calls for plan in plans}) != 1:
            raise BadPlan("plans of different numbers of calls, or none")

    @property
    def shown(self) -> Plan:
        """The shortest."""
        return min(self._plans.values(), key=lambda plan: len(plan.steps))

    @property
    def image_by_image(self) -> bool:
        return 1 in self._plans

    def of(self, count: int) -> Plan:
        """The plan for so many images. Raises NoPlan where there is none; else it is proved for this number (rules.check)."""
        plan = self._plans.get(None) or self._plans.get(count)
        if plan is None:
            raise NoPlan(f"no plan of {count} images")
        try:
            if count not in self._proved:
                check(plan, count)
        except BadPlan as error:
            raise NoPlan(str(error)) from None
        self._proved.add(count)
        return plan


class NoPlan(Exception):
    """A sampler that no plan can hold. The text says why, with the line of its file: words of a stranger in part."""


@dataclass(frozen=True)
class Model:
    """A submission ready to be sampled: its Python files, its options, its networks here, and its other tensors."""

    code: Path
    config: dict[str, Any]
    weights: Weights

    @property
    def networks(self) -> dict[str, nn.Module]:
        return self.weights.networks

    @property
    def num_classes(self) -> int:
        return getattr(next(iter(self.networks.values())), "num_classes", 0)

    @property
    def device(self) -> torch.device:
        return next(next(iter(self.networks.values())).parameters()).device

    def to(self, device: torch.device) -> None:
        for network in self.networks.values():
            network.to(device, memory_format=torch.channels_last)

    def answer(self, prefix: str, x: torch.Tensor, given: dict[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """One call of a network in the autocast that it stands in. Failed where it does not take what it is given."""
        network, rows = self.networks[prefix], len(x)
        given = {name: value.to(self.device).reshape(-1).expand(rows) for name, value in given.items()}
        labels, condition = given.get("labels"), given.get("condition") if takes_condition(network) else None
        if takes_condition(network) and condition is None:
            raise Failed("crashed", "the network has the additional condition, and a call gave it none")
        if not self.num_classes:
            labels = None
        elif labels is not None and (labels.is_floating_point() or not 0 <= labels.min() <= labels.max() <= self.num_classes):
            raise Failed("wrong_output", f"a network call with labels that are not of 0 to {self.num_classes}")
        try:
            with torch.inference_mode(), autocast(self.device, dtype):
                return network(x.to(self.device), given["timestep"], condition, **with_labels(labels))
        except torch.OutOfMemoryError:
            raise  # ours
        except (RuntimeError, ValueError) as error:
            raise Failed(
                "crashed", f"a network call on {x.dtype} that the network does not take", private=str(error)
            ) from error


def run_plan(
    plan: Plan, model: Model, count: int, draw: Callable[[int, Law], torch.Tensor], labels: torch.Tensor | None = None
) -> torch.Tensor:
    """The images (count, C, H, W) of a plan with the team's own network. Raises NoPlan where a question has another answer."""

    def call(_: int, prefix: str, x: torch.Tensor, given: dict[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        return model.answer(prefix, x, given, dtype)

    try:
        with torch.inference_mode():
            return replay(plan, count, call, draw, labels, model.device)
    except OtherAnswer as error:
        raise NoPlan(f"a question of yes or no has another answer for other images: {error}") from None


class Broker:
    """One process of a submission, and its networks here. A context manager, which starts and ends the process.

    After the start `method` is the submission's name for its method, and `random_states` are those of torch and NumPy after the
    model was made of seed COURSE_SEED. `calls` counts calls of all networks times images; one image's part of it is its NFE.
    """

    def __init__(self, model: Model, limits: Limits, challenge: Challenge):
        self.model, self.limits, self.challenge = model, limits, challenge
        self.method, self.calls, self.images = "", 0, 0
        self.waited = 0.0  # seconds, for all images of this process so far

    def __enter__(self) -> "Broker":
        self.confined = Confined(self.model.code, self.limits)
        try:
            self._start()
        except BaseException:
            self.confined.kill()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.confined.kill()

    def record(self, nfe: int, dtype: torch.dtype = torch.float32, sizes: Sequence[int] = ()) -> Plans:
        """The plans of sample() at this NFE, within autocast of this dtype where it is bfloat16; sizes: see plan.record.

        Raises NoPlan, and Failed where it makes too many calls, or breaks down.
        """
        seconds = self.limits.record_seconds
        self.confined.allow(self.confined.usage().cpu_seconds + seconds, seconds, f"while NFE {nfe} was recorded")
        request = {"nfe": nfe, "shape": self.challenge.shape, "classes": self.model.num_classes}
        request["sizes"] = list(sizes)
        self._send({"kind": "record", "bfloat16": dtype == torch.bfloat16, **request})
        header, payload = self._receive(PLAN_BYTES * MOST_PLANS, ("plans", "unrecorded"))
        if header["kind"] == "unrecorded":
            raise NoPlan(one_line(header.get("text", "")))
        texts = _tensors(header, payload, {str(number): ("uint8",) for number in range(MOST_PLANS)})
        try:
            shape, networks = self.challenge.shape, tuple(self.model.networks)
            plans = Plans([read(text.numpy().tobytes(), shape, networks) for text in texts.values()])
        except BadPlan as error:
            raise NoPlan(one_line(str(error))) from None
        if plans.shown.calls > nfe:
            raise Failed("too_many_calls", f"NFE {nfe}: its plan makes {plans.shown.calls} network calls for an image")
        return plans

    def sample(self, nfe: int, seeds: list[int], first: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Images of these seeds by the sampler's own code, one per seed; of a network with classes, of each class in turn.

        first: the number of the first image in its run, from which its class follows as in sampling.py. Allowed are nfe calls,
        each on the whole batch. Raises Failed.
        """
        shape, limits = (len(seeds), *self.challenge.shape), self.limits
        self.images += len(seeds)
        wait = min(limits.sample_seconds + len(seeds) * limits.sample_seconds_an_image, limits.run_seconds - self.waited)
        self.confined.allow(self._cpu_at_start + limits.run_seconds, wait, f"while NFE {nfe} was sampled")
        labels = labels_in_turn(self.model, first, len(seeds)).get("labels")
        request = {"shape": shape, "nfe": nfe, "seeds": seeds, "labels": None if labels is None else labels.tolist()}
        self._send({"kind": "sample", "bfloat16": dtype == torch.bfloat16, **request})
        made = 0
        while True:
            header, payload = self._receive(4 * math.prod(shape) * 8, ("call", "images"))
            if header["kind"] == "images":
                break
            made += 1
            if made > nfe:
                told = f"NFE {nfe}: the model made a network call number {made}"
                raise Failed("too_many_calls", f"{told}; sample() may make {nfe} for all images together, of all its networks")
            self._answer(header, payload, len(seeds), nfe)
        self.waited += wait - self.confined.wait_left
        images = _tensors(header, payload, {"images": FLOAT_TYPES})["images"]
        return checked(images, shape, nfe)

    # ----------------------------------------------------------------------------------------------------------- parts

    def _start(self) -> None:
        weights = self.model.weights
        shapes = {
            prefix: {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
            for prefix, network in weights.networks.items()
        }
        zeros = [(name, str(value.dtype).removeprefix("torch."), list(value.shape)) for name, value in weights.zeros.items()]
        kind = f"{self.challenge.network.__module__}.{self.challenge.network.__qualname__}"
        request = {"code": "/submission", "model_config": self.model.config, "networks": shapes, "zeros": zeros}
        self._send({"kind": "setup", "seed": COURSE_SEED, "network_class": kind, **request}, weights.extras)
        header, payload = self._receive(HEADER_BYTES, ("ready",))
        self.method = one_line(header.get("method", ""))
        self.random_states = _tensors(header, payload, {"torch": ("uint8",), "numpy": ("int64",)})
        self._cpu_at_start = self.confined.check().cpu_seconds

    def _send(self, header: dict[str, Any], tensors: dict[str, torch.Tensor] | None = None) -> None:
        parts = [(name, *to_bytes(tensor.cpu())) for name, tensor in (tensors or {}).items()]
        header["tensors"] = {name: {"dtype": dtype, "shape": shape} for name, dtype, shape, _ in parts}
        text, payload = json.dumps(header).encode(), b"".join(data for *_, data in parts)
        self.confined.send(LENGTHS.pack(len(text), len(payload)) + text + payload)

    def _receive(self, most_bytes: int, kinds: tuple[str, ...]) -> tuple[dict[str, Any], bytes]:
        """The worker's next message. Raises Failed for one that tells of a failure, or that is of no expected kind."""
        header_length, payload_length = LENGTHS.unpack(self.confined.receive(LENGTHS.size))
        if header_length > HEADER_BYTES:
            raise Failed("wrong_output", SENSELESS)
        try:
            header = json.loads(self.confined.receive(header_length))
            kind = header["kind"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Failed("wrong_output", SENSELESS) from error
        if kind == "error":
            raise told_failure(header)
        if kind not in kinds:
            early = kind == "call" and kinds == ("ready",)
            code = "too_many_calls" if early else "wrong_output"
            what = (
                "the model called its network while it was built"
                if early
                else "a message of the model's process was not expected now"
            )
            raise Failed(code, what)
        if payload_length > most_bytes:
            raise Failed("wrong_output", f"{payload_length} bytes in one message, at most {most_bytes} are expected")
        return header, self.confined.receive(payload_length)

    def _answer(self, header: dict[str, Any], payload: bytes, batch: int, nfe: int) -> None:
        """Compute one call of a network, count it, and send its result."""
        named = [header.get(key) for key in ("network", "precision")]
        if (
            not all(isinstance(name, str) for name in named)
            or named[0] not in self.model.networks
            or named[1] not in PRECISIONS
        ):
            raise Failed("wrong_output", SENSELESS)
        types = {"x": FLOAT_TYPES, "timestep": DTYPES, "condition": DTYPES, "labels": ("int64",)}
        given = _tensors(header, payload, types)
        x, shape = given.pop("x", None), (batch, *self.challenge.shape)
        if x is None or "timestep" not in given:
            raise Failed("wrong_output", "a network call without x or timestep")
        if tuple(x.shape) != shape:
            code = "too_many_calls" if x.ndim and len(x) > batch else "wrong_output"
            raise Failed(code, f"a network call on {tuple(x.shape)}, expected the whole batch at once: {shape}")
        for name, value in given.items():
            if tuple(value.shape) not in ((batch,), (1,)):
                raise Failed("wrong_output", f"a network call with a {name} {tuple(value.shape)}, expected ({batch},)")
        answer = self.model.answer(named[0], x, given, getattr(torch, named[1]))
        if not (torch.isfinite(x).all() and torch.isfinite(answer).all()):
            raise Failed("wrong_output", f"NFE {nfe}: a network call on values that are not finite, or its answer is not")
        self.calls += batch
        self._send({"kind": "answer"}, {"answer": answer})


def checked(images: torch.Tensor, shape: tuple[int, ...], nfe: int) -> torch.Tensor:
    """Images that are finite, also in float32, and of this shape. Raises Failed for others."""
    if tuple(images.shape) != shape:
        raise Failed("wrong_output", f"sample() gave images {tuple(images.shape)}, expected {shape}")
    if not torch.isfinite(images.float()).all():
        raise Failed("wrong_output", f"sample() gave values that are not finite at NFE {nfe}")
    return images


def told_failure(header: dict[str, Any]) -> Failed:
    """The failure that a worker tells of: what is public is its code and the kind of error; its words are the team's alone."""
    code, kind = header.get("code"), header.get("kind_of_error")
    code = code if isinstance(code, str) and code in CODES and code != "grader_error" else "crashed"
    known = isinstance(kind, str) and isinstance(getattr(builtins, kind, None), type)
    public = KINDS.get(code) or (f"{kind} in its own code" if known else "an error of its own")
    return Failed(code, public, private=str(header.get("text", ""))[:8000])


def _tensors(header: dict[str, Any], payload: bytes, expected: dict[str, tuple[str, ...]]) -> dict[str, torch.Tensor]:
    """The tensors of a message, where each is of an expected name and type and they fill the payload exactly."""
    tensors, start = {}, 0
    described = header.get("tensors")
    if not isinstance(described, dict):
        raise Failed("wrong_output", SENSELESS)
    for name, value in described.items():
        dtype, shape = (value.get("dtype"), value.get("shape")) if isinstance(value, dict) else (None, None)
        sound = isinstance(shape, list) and len(shape) <= 8 and all(type(n) is int and 0 < n < 2**32 for n in shape)
        if name not in expected or not sound:
            raise Failed("wrong_output", SENSELESS)
        if dtype not in expected[name]:
            raise Failed("wrong_output", f"{quoted(name)} is {quoted(dtype)}, expected one of {', '.join(expected[name])}")
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
