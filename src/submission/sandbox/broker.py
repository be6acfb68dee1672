"""A submission in its sandbox: its plans, and its images where its sampler runs by its own code.

The weights never enter the sandbox. Where a sampler runs by its own code, the worker asks for every call of the network by a
message, and the call is computed and counted here. What comes from the worker is bytes of a stranger: every length, type and
shape is checked before it is used.
"""

import builtins
import json
import math
from collections.abc import Sequence
from typing import Any

import torch

from src.challenges import Challenge
from src.common.classes import labels_in_turn
from src.submission import bounds
from src.submission.failures import CODES, Failed, one_line, quoted
from src.submission.plan.operations import BadPlan
from src.submission.plan.read import read
from src.submission.sandbox.process import Confined
from src.submission.sandbox.sampler import COURSE_SEED, Model, NoPlan, Plans, checked
from src.submission.sandbox.worker import DTYPES, LENGTHS, pack_message

FLOAT_TYPES = ("float32", "float64", "float16", "bfloat16")
PRECISIONS = ("float32", "float16", "bfloat16")
CALL_TYPES = {"x": FLOAT_TYPES, "timestep": DTYPES, "condition": DTYPES, "labels": ("int64",)}
PUBLIC = {  # codes of a worker's own checks -> what everyone may read of them
    "wrong_architecture": "a network of its model is not that of its checkpoint: of another class, absent, or of other shapes",
    "wrong_output": "sample() gave no images of the shape asked for",
}


def _wrong(text: str = "a message of the model's process has no sense") -> Failed:
    return Failed("wrong_output", text)


class Broker:
    """One process of a submission, and its networks here. A context manager, which starts and ends the process.

    After the start `method` is the submission's name for its method, and `random_states` are those of torch and NumPy after the
    model was made of seed COURSE_SEED. `calls` counts calls of all networks times images; one image's part of it is its NFE.
    """

    def __init__(self, model: Model, challenge: Challenge):
        self.model, self.challenge = model, challenge
        self.method, self.calls = "", 0
        self.waited = 0.0  # seconds, for all images of this process so far

    def __enter__(self) -> "Broker":
        self.confined = Confined(self.model.code)
        try:
            self._start()
        except BaseException:
            self.confined.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.confined.kill()

    def record(self, nfe: int, dtype: torch.dtype = torch.float32, sizes: Sequence[int] = ()) -> Plans:
        """The plans of sample() at this NFE, within autocast of this dtype where it is bfloat16; sizes: see plan.record.

        Raises NoPlan, and Failed where it makes too many calls, or breaks down.
        """
        seconds = bounds.RECORD_SECONDS
        self.confined.allow(self.confined.usage().cpu_seconds + seconds, seconds, f"while NFE {nfe} was recorded")
        shape, classes = self.challenge.shape, self.model.num_classes
        request = {"nfe": nfe, "shape": shape, "classes": classes, "sizes": list(sizes)}
        self._send({"kind": "record", "bfloat16": dtype == torch.bfloat16, **request})
        header, payload = self._receive(bounds.PLAN_BYTES * bounds.PLANS, ("plans", "unrecorded"))
        if header["kind"] == "unrecorded":
            raise NoPlan(one_line(header.get("text", "")))
        texts = _tensors(header, payload, {str(number): ("uint8",) for number in range(bounds.PLANS)})
        try:
            plans = Plans([read(text.numpy().tobytes(), shape, tuple(self.model.networks)) for text in texts.values()])
        except BadPlan as error:
            raise NoPlan(one_line(error)) from None
        if plans.shown.calls > nfe:
            raise Failed("too_many_calls", f"NFE {nfe}: its plan makes {plans.shown.calls} network calls for an image")
        return plans

    def sample(self, nfe: int, seeds: list[int], first: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Images of these seeds by the sampler's own code, one per seed; of a network with classes, of each class in turn.

        first: the number of the first image in its run, from which its class follows as in sampling.py. Allowed are nfe calls,
        each on the whole batch. Raises Failed.
        """
        shape = (len(seeds), *self.challenge.shape)
        most = bounds.SAMPLE_SECONDS + len(seeds) * bounds.SAMPLE_SECONDS_PER_IMAGE
        wait = min(most, bounds.RUN_SECONDS - self.waited)
        self.confined.allow(self._cpu_at_start + bounds.RUN_SECONDS, wait, f"while NFE {nfe} was sampled")
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
                most = f"sample() may make {nfe} for all images together, of all its networks"
                raise Failed("too_many_calls", f"NFE {nfe}: the model made a network call number {made}; {most}")
            self._answer(header, payload, len(seeds), nfe)
        self.waited += wait - self.confined.wait_left
        return checked(_tensors(header, payload, {"images": FLOAT_TYPES})["images"], shape, nfe)

    def _start(self) -> None:
        weights, kind = self.model.weights, self.challenge.network
        shapes = {
            prefix: {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
            for prefix, network in weights.networks.items()
        }
        zeros = [(name, str(value.dtype).removeprefix("torch."), list(value.shape)) for name, value in weights.zeros.items()]
        request = {"model_config": self.model.config, "networks": shapes, "zeros": zeros, "seed": COURSE_SEED}
        request["network_class"] = f"{kind.__module__}.{kind.__qualname__}"
        self._send({"kind": "setup", **request}, weights.extras)
        header, payload = self._receive(bounds.HEADER_BYTES, ("ready",))
        self.method = one_line(header.get("method", ""))
        self.random_states = _tensors(header, payload, {"torch": ("uint8",), "numpy": ("int64",)})
        self._cpu_at_start = self.confined.check().cpu_seconds

    def _send(self, header: dict[str, Any], tensors: dict[str, torch.Tensor] | None = None) -> None:
        self.confined.send(pack_message(header, tensors or {}))

    def _receive(self, most_bytes: int, kinds: tuple[str, ...]) -> tuple[dict[str, Any], bytes]:
        """The worker's next message. Raises Failed for one that says of a failure, or that is of no expected kind."""
        header_length, payload_length = LENGTHS.unpack(self.confined.receive(LENGTHS.size))
        if header_length > bounds.HEADER_BYTES:
            raise _wrong()
        try:
            header = json.loads(self.confined.receive(header_length))
            kind = header["kind"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _wrong() from error
        if kind == "error":
            raise _failure_in(header)
        if kind == "call" and kinds == ("ready",):
            raise Failed("too_many_calls", "the model called its network while it was built")
        if kind not in kinds:
            raise _wrong("a message of the model's process was not expected now")
        if payload_length > most_bytes:
            raise _wrong(f"{payload_length} bytes in one message, at most {most_bytes} are expected")
        return header, self.confined.receive(payload_length)

    def _answer(self, header: dict[str, Any], payload: bytes, batch: int, nfe: int) -> None:
        """Compute one call of a network, count it, and send its result."""
        network, precision = header.get("network"), header.get("precision")
        if not isinstance(network, str) or network not in self.model.networks or precision not in PRECISIONS:
            raise _wrong()
        scalars = _tensors(header, payload, CALL_TYPES)
        x, shape = scalars.pop("x", None), (batch, *self.challenge.shape)
        if x is None or "timestep" not in scalars:
            raise _wrong("a network call without x or timestep")
        if tuple(x.shape) != shape:
            code = "too_many_calls" if x.ndim and len(x) > batch else "wrong_output"
            raise Failed(code, f"a network call on {tuple(x.shape)}, expected the whole batch at once: {shape}")
        for name, value in scalars.items():
            if tuple(value.shape) not in ((batch,), (1,)):
                raise _wrong(f"a network call with a {name} {tuple(value.shape)}, expected ({batch},)")
        answer = self.model.answer(network, x, scalars, getattr(torch, precision))
        if not (torch.isfinite(x).all() and torch.isfinite(answer).all()):
            raise _wrong(f"NFE {nfe}: a network call on values that are not finite, or its answer is not")
        self.calls += batch
        self._send({"kind": "answer"}, {"answer": answer})


def _failure_in(header: dict[str, Any]) -> Failed:
    """The failure that a worker's message says of: its code and the kind of error are public, its words the team's alone."""
    code, kind = header.get("code"), header.get("kind_of_error")
    code = code if isinstance(code, str) and code in CODES and code != "grader_error" else "crashed"
    common = isinstance(kind, str) and isinstance(getattr(builtins, kind, None), type)
    public = PUBLIC.get(code) or (f"{kind} in its own code" if common else "an error of its own")
    return Failed(code, public, private=str(header.get("text", "")))


def _tensors(header: dict[str, Any], payload: bytes, expected: dict[str, tuple[str, ...]]) -> dict[str, torch.Tensor]:
    """The tensors of a message, where each is of an expected name and type and they fill the payload exactly."""
    tensors, start, described = {}, 0, header.get("tensors")
    if not isinstance(described, dict):
        raise _wrong()
    for name, value in described.items():
        dtype, shape = (value.get("dtype"), value.get("shape")) if isinstance(value, dict) else (None, None)
        sound = isinstance(shape, list) and len(shape) <= 8 and all(type(n) is int and 0 < n < 2**32 for n in shape)
        if name not in expected or not sound:
            raise _wrong()
        if dtype not in expected[name]:
            raise _wrong(f"{quoted(name)} is {quoted(dtype)}, expected one of {', '.join(expected[name])}")
        kind = getattr(torch, dtype)
        end = start + math.prod(shape) * kind.itemsize
        if end > len(payload):
            raise _wrong("a message of the model's process is shorter than it says")
        tensors[name] = torch.frombuffer(bytearray(payload[start:end]), dtype=kind).reshape(shape)
        start = end
    if start != len(payload):
        raise _wrong("a message of the model's process is longer than it says")
    return tensors
