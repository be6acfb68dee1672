"""The grader's side of the pipe, fed with what a hostile process might send."""

import json
from pathlib import Path

import pytest
import torch

from src.challenges import get_challenge
from src.network import UNet
from src.submission import bounds
from src.submission.failures import Failed
from src.submission.handin.weights import Weights
from src.submission.sandbox.broker import Broker
from src.submission.sandbox.process import Usage
from src.submission.sandbox.sampler import Model, NoPlan
from src.submission.sandbox.worker import LENGTHS, pack_message
from tests.helpers import TINY, fill_by_rule
from tests.submission.test_plan import plan

NETWORK = fill_by_rule(UNet(**TINY)).eval().requires_grad_(False)
MODEL = Model(Path(), {}, Weights({"network.": NETWORK}, {}))
IMAGES = {"dtype": "float32", "shape": [2, 3, 64, 64]}
PIXELS = bytes(4 * 2 * 3 * 64 * 64)


class Pipe:
    """Stands for the confined process: what it sends is given, what it gets is kept."""

    wait_left = 1.0

    def __init__(self, data: bytes):
        self.data, self.sent = data, []

    def allow(self, *_):
        pass

    def usage(self):
        return Usage(0.0, 0, 1, 1)

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def receive(self, count: int) -> bytes:
        part, self.data = self.data[:count], self.data[count:]
        if len(part) < count:
            raise Failed("crashed", "the process ended")
        return part


def message(header: object, payload: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return LENGTHS.pack(len(text), len(payload)) + text + payload


def call(rows: int = 2, size: int = 64, dtype: torch.dtype = torch.float32, network: object = "network.", **described) -> bytes:
    header = {"kind": "call", "network": network, "precision": "float32"}
    data = pack_message(header, {"x": torch.zeros(rows, 3, size, size, dtype=dtype), "timestep": torch.zeros(rows)})
    start = LENGTHS.size + LENGTHS.unpack(data[: LENGTHS.size])[0]
    header = json.loads(data[LENGTHS.size : start])
    return message({**header, "tensors": {**header["tensors"], **described}}, data[start:])


def images(**described: object) -> bytes:
    return message({"kind": "images", "tensors": {"images": {**IMAGES, **described}}}, PIXELS)


def plans(*texts: bytes) -> bytes:
    tensors = {str(number): {"dtype": "uint8", "shape": [len(text)]} for number, text in enumerate(texts)}
    return message({"kind": "plans", "tensors": tensors}, b"".join(texts))


def sample(data: bytes, nfe: int = 1) -> Broker:
    """Two images of a process that sends data."""
    broker = broker_of(data)
    broker.result = broker.sample(nfe, [5, 6])
    return broker


def broker_of(data: bytes) -> Broker:
    broker = Broker(MODEL, get_challenge())
    broker.confined, broker._cpu_at_start = Pipe(data), 0.0
    return broker


def test_calls_are_counted_and_answered():
    broker = sample(call() + call() + images(), nfe=2)
    assert broker.calls == 4 and len(broker.confined.sent) == 3
    assert broker.result.shape == (2, 3, 64, 64) and not broker.result.any()
    answer = torch.frombuffer(bytearray(broker.confined.sent[1][-len(PIXELS) :]), dtype=torch.float32)
    assert torch.equal(answer.reshape(2, 3, 64, 64), NETWORK(torch.zeros(2, 3, 64, 64), torch.zeros(2)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (call() + call(), "too_many_calls: NFE 1: the model made a network call number 2"),
        (call(3), "too_many_calls: a network call on (3, 3, 64, 64), expected the whole batch"),
        (call(1), "wrong_output: a network call on (1, 3, 64, 64), expected the whole batch"),
        (call(network="teacher."), "wrong_output: a message of the model's process has no sense"),
        (call(network=[]), "wrong_output: a message of the model's process has no sense"),
        (call(2, 128), "wrong_output: "),
        (call(2, 32), "wrong_output: a network call on (2, 3, 32, 32)"),
        (call(dtype=torch.float64), "crashed: a network call on torch.float64"),
        (call(condition={"dtype": "float32", "shape": [2]}), "wrong_output: a message of the model's process is shorter"),
        (call(weights={"dtype": "float32", "shape": [2]}), "wrong_output: a message of the model's process has no sense"),
        (images(shape=[2, 3, 64, 63]), "wrong_output: a message of the model's process is longer"),
        (images(shape=[2, 3, 32, 128]), "wrong_output: sample() gave images (2, 3, 32, 128), expected (2, 3, 64, 64)"),
        (images(shape=[2, 3, 64, 2**40]), "wrong_output: a message of the model's process has no sense"),
        (images(shape=[0, 3, 64, 64]), "wrong_output: a message of the model's process has no sense"),
        (images(shape="all"), "wrong_output: a message of the model's process has no sense"),
        (images(dtype="uint8"), "wrong_output: “images” is “uint8”"),
        (images(dtype=["float32"]), "wrong_output: “images” is “['float32']”"),
        (message(b"[" * 60000), "wrong_output: a message of the model's process has no sense"),
        (message(b"\xff"), "wrong_output: a message of the model's process has no sense"),
        (message([]), "wrong_output: a message of the model's process has no sense"),
        (message({"kind": "ready"}), "wrong_output: a message of the model's process was not expected now"),
        (message({"kind": "images"}), "wrong_output: a message of the model's process has no sense"),
        (LENGTHS.pack(bounds.HEADER_BYTES + 1, 0), "wrong_output: a message of the model's process has no sense"),
        (LENGTHS.pack(17, 1 << 40) + b'{"kind": "call"} ', "wrong_output: 1099511627776 bytes in one message"),
        (message({"kind": "error", "code": "grader_error", "text": "x"}), "crashed: an error of its own"),
        (message({"kind": "error", "code": "crashed", "kind_of_error": "OSError"}), "crashed: OSError in its own code"),
        (message({"kind": "error", "code": "crashed", "kind_of_error": "print"}), "crashed: an error of its own"),
        (message({"kind": "error", "code": "crashed", "kind_of_error": "the seeds"}), "crashed: an error of its own"),
        (message({"kind": "error", "code": [], "text": {"a": "\x1b[31m\n" + 999 * "b"}}), "crashed: "),
    ],
)
def test_hostile_messages(data, reason):
    with pytest.raises(Failed) as caught:
        sample(data)
    assert caught.value.reason.startswith(reason) and len(caught.value.reason) < 350
    assert caught.value.reason.isprintable()


def test_no_call_before_sampling():
    with pytest.raises(Failed, match="too_many_calls: the model called its network while it was built"):
        broker_of(call())._start()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (plans(), "plans of different numbers of calls, or none"),
        (plans(b"{"), "a plan that is no JSON"),
        (
            plans(json.dumps(plan(shape=[3, 64, 64])).encode()),
            "a call on (3, 3, 16, 16), expected whole batches of (3, 64, 64)",
        ),
        (message({"kind": "unrecorded", "text": "a\x1b[31m line"}), "a?[31m line"),
    ],
    ids=["none", "no JSON", "another shape", "unrecorded"],
)
def test_plans_that_are_none(data, reason):
    with pytest.raises(NoPlan) as caught:
        broker_of(data).record(1)
    assert reason in str(caught.value) and str(caught.value).isprintable()


def test_forged_results_of_a_recording():
    """The plan is all that is believed: what stands beside it is not looked at, and too many bytes are not read."""
    steps = plan(shape=[3, 64, 64])
    steps["steps"][0]["args"][1] = [{"batch": 1}, 3, 64, 64]
    text = json.dumps(steps).encode()
    tensors = {"0": {"dtype": "uint8", "shape": [len(text)]}}
    forged = {"kind": "plans", "tensors": tensors, "calls": 0, "fid": 1.0, "status": "graded"}
    assert broker_of(message(forged, text)).record(1).shown.calls == 1
    with pytest.raises(Failed, match="too_many_calls: NFE 0: its plan makes 1 network calls for an image"):
        broker_of(message(forged, text)).record(0)
    with pytest.raises(Failed, match="wrong_output: 10000000 bytes in one message"):
        broker_of(plans(bytes(10_000_000))).record(1)
    with pytest.raises(Failed, match="wrong_output: a message of the model's process was not expected now"):
        broker_of(images()).record(1)
