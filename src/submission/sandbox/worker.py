"""What runs inside the sandbox: it builds the submission's model, records its sampler, or samples by the sampler's own code.

Nothing here is trusted: a submission shares the process and may do to it what it likes. It has no weights of the network, no
data and no device. While a sampler is recorded the network's answers are stand-ins, and what comes out is a plan, which the
grader reads strictly. A sampler that cannot be recorded runs by its own code: then its network's forward is a message to the
grader, which computes the call and counts it. In the sandbox are this file, bounds.py and the folder plan/, and no other of
the grader's.

Messages, both ways: a byte count of a JSON header (4 bytes), one of the payload (8 bytes), both little-endian, then the two.
"""

import contextlib
import ctypes
import errno
import importlib
import json
import os
import random
import resource
import struct
import sys
import traceback

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
LENGTHS = struct.Struct("<IQ")
CODE = "/submission"
OUT_OF_SPACE = (errno.EFBIG, errno.ENOSPC, errno.EDQUOT)


def pack_message(header: dict, tensors: dict) -> bytes:
    """A message with these tensors by name, as both sides send it."""
    import torch  # here as in main, after the bounds are set

    parts, described = [], {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        described[name] = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    text, payload = json.dumps({**header, "tensors": described}).encode(), b"".join(parts)
    return LENGTHS.pack(len(text), len(payload)) + text + payload


class Channel:
    """The pipe to the grader."""

    def __init__(self, reading: int, writing: int):
        self.reading, self.writing = os.fdopen(reading, "rb", buffering=0), os.fdopen(writing, "wb")

    def send(self, kind: str, tensors: dict | None = None, **fields: object) -> None:
        self.writing.write(pack_message({"kind": kind, **fields}, tensors or {}))
        self.writing.flush()

    def receive(self) -> tuple[dict, dict]:
        """The next message: its header, and its tensors by name. Ends the process when the grader has closed the pipe."""
        header_length, payload_length = LENGTHS.unpack(self._read(LENGTHS.size))
        header = json.loads(self._read(header_length))
        payload, tensors, start = self._read(payload_length), {}, 0
        for name, described in header["tensors"].items():
            tensors[name] = torch.empty(described["shape"], dtype=getattr(torch, described["dtype"]))
            end = start + tensors[name].numel() * tensors[name].itemsize
            if end > start:
                tensors[name] = torch.frombuffer(payload[start:end], dtype=tensors[name].dtype).reshape(described["shape"])
            start = end
        return header, tensors

    def _read(self, count: int) -> bytearray:
        data = bytearray()
        while len(data) < count:
            part = self.reading.read(min(count - len(data), 1 << 20))
            if not part:
                os._exit(0)
            data += part
        return data


def set_bounds(bounds: dict) -> None:
    """Bounds of the kernel that cannot be lifted again."""
    values = {
        resource.RLIMIT_DATA: bounds["MEMORY"],
        resource.RLIMIT_FSIZE: bounds["DISK"],
        resource.RLIMIT_CPU: bounds["KERNEL_CPU_SECONDS"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: bounds["OPEN_FILES"],
        resource.RLIMIT_NPROC: bounds["KERNEL_PROCESSES"],
    }
    for kind, value in values.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


class Networks:
    """The networks of a submission, whose forwards ask a recorder or the grader."""

    def __init__(self, channel: Channel):
        self.channel = channel
        self.recorder: recording.Recorder | None = None

    def record_with(self, recorder: "recording.Recorder | None") -> None:
        self.recorder = recorder

    def forward_of(self, prefix: str, network: "torch.nn.Module") -> object:
        """The forward of the network of this prefix."""
        weights = list(map(id, network.parameters()))

        def forward(x, timestep, condition=None, labels=None) -> "torch.Tensor":  # all but x: tensors of any shape, or numbers
            scalars = {"timestep": timestep, "condition": condition, "labels": labels}
            if self.recorder is not None:
                if list(map(id, network.parameters())) != weights:
                    raise self.recorder.refuse("the network's weights are replaced by others while sampling")
                return self.recorder.call(prefix, x, **scalars)
            scalars = {name: torch.as_tensor(value).reshape(-1) for name, value in scalars.items() if value is not None}
            cast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
            self.channel.send("call", {"x": x, **scalars}, network=prefix, precision=str(cast).removeprefix("torch."))
            return self.channel.receive()[1]["answer"]

        return forward


def build(channel: Channel, networks: Networks) -> "torch.nn.Module":
    """Make the submission's model, with its own small tensors from the checkpoint, and networks that ask elsewhere."""
    header, extras = channel.receive()
    sys.path.insert(0, CODE)
    skip_downloads()
    from custom_model import create_custom_model

    seed_all(header["seed"])
    model = create_custom_model(device="cpu", **header["model_config"])
    places = {plain_name(f"{name}." if name else ""): name for name, _ in model.named_modules()}
    own, state = model.state_dict(), {}
    for prefix, shapes in header["networks"].items():
        place = places.get(plain_name(prefix))
        found = None if place is None else model.get_submodule(place)
        check_network(channel, prefix, shapes, found, header["network_class"])
        found.forward = networks.forward_of(prefix, found)
        state |= {f"{place}.{name}" if place else name: tensor for name, tensor in found.state_dict().items()}
    zeros = {name: torch.zeros(shape, dtype=getattr(torch, dtype)) for name, dtype, shape in header["zeros"]}
    names = {plain_name(name): name for name in own}
    for name, tensor in {**extras, **zeros}.items():
        state[name if name in own else names.get(plain_name(name), name)] = tensor
    model.load_state_dict(state)
    model.eval()
    method = header["model_config"].get("method") or header["model_config"].get("model_type")
    _, words, *places = numpy.random.get_state(legacy=True)
    states = {"torch": torch.get_rng_state(), "numpy": torch.tensor([*words.tolist(), places[0]])}
    channel.send("ready", states, method=str(method or type(model).__name__)[:100])
    return model


def check_network(channel: Channel, prefix: str, shapes: dict, found: "torch.nn.Module | None", expected: str) -> None:
    """End the process where what stands in the model for a network of the checkpoint is not of the expected class."""
    module, _, name = expected.rpartition(".")
    place = f"model.{prefix.rstrip('.')}"
    wrong = ""
    if type(found) not in (getattr(importlib.import_module(module), name), importlib.import_module("src.network").UNet):
        wrong = f"{place} is {'absent' if found is None else type(found).__name__}, expected {expected}, as in the checkpoint"
    elif {name: list(tensor.shape) for name, tensor in found.state_dict().items()} != shapes:
        wrong = f"{place} has other shapes than the checkpoint's network"
    if wrong:
        channel.send("error", code="wrong_architecture", text=wrong)
        os._exit(3)


def plain_name(name: str) -> str:
    """A name without what torch.compile and DataParallel add to it."""
    return ".".join(part for part in name.split(".") if part not in ("_orig_mod", "module"))


def seed_all(seed: int) -> None:
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def skip_downloads() -> None:
    """Let weights that a package would download, such as those of a perceptual loss, count as loaded.

    The sandbox has no network. Sampling needs none of them; what it holds of them stays as it was drawn.
    """

    class Absent(dict):
        pass

    load = torch.nn.Module.load_state_dict

    def load_state_dict(self: "torch.nn.Module", state: dict, *args: object, **kwargs: object) -> object:
        return None if isinstance(state, Absent) else load(self, state, *args, **kwargs)

    torch.nn.Module.load_state_dict = load_state_dict
    torch.hub.load_state_dict_from_url = lambda *args, **kwargs: Absent()


def serve(channel: Channel) -> None:
    """Build the model, then answer every request for a plan or for images, until the grader closes the pipe."""
    networks = Networks(channel)
    with torch.no_grad():
        with errors_sent(channel):
            model = build(channel, networks)
        while True:
            header, _ = channel.receive()
            with errors_sent(channel), torch.autocast("cpu", torch.bfloat16, enabled=header["bfloat16"]):
                if header["kind"] == "record":
                    record(channel, model, networks, header)
                else:
                    sample(channel, model, header)


def record(channel: Channel, model: "torch.nn.Module", networks: Networks, header: dict) -> None:
    """Send the plans of sample() at an NFE, or why there are none."""
    rest = header["nfe"], tuple(header["shape"]), CODE, header["classes"], header["sizes"]
    try:
        plans = recording.record(model.sample, networks.record_with, *rest)
    except recording.NotRecorded as error:
        channel.send("unrecorded", text=str(error)[:1000])
        return
    texts = [bytearray(recording.as_bytes(plan)) for plan in plans]
    channel.send("plans", {str(number): torch.frombuffer(text, dtype=torch.uint8) for number, text in enumerate(texts)})


def sample(channel: Channel, model: "torch.nn.Module", header: dict) -> None:
    """Send the images of sample() for these seeds."""
    seed_all(header["seeds"][0])
    label_kwargs = {} if header["labels"] is None else {"labels": torch.tensor(header["labels"])}
    if getattr(model, "takes_seeds", False):
        label_kwargs["seeds"] = header["seeds"]
    images = model.sample(tuple(header["shape"]), num_inference_timesteps=header["nfe"], verbose=False, **label_kwargs)
    if not isinstance(images, torch.Tensor):
        raise recording.WrongOutput(f"sample() gave {type(images).__name__}, expected a tensor")
    channel.send("images", {"images": images})


@contextlib.contextmanager
def errors_sent(channel: Channel) -> object:
    """Send the grader an error within, of whatever a submission raises.

    torch says in words alone that memory was wanting; the C library's errno says so by a number.
    """
    last_error = ctypes.CDLL(None).__errno_location
    last_error.restype = ctypes.POINTER(ctypes.c_int)
    last_error()[0] = 0
    try:
        yield
    except Exception as error:
        wanting, code = last_error()[0] == errno.ENOMEM, "crashed"
        if isinstance(error, recording.WrongOutput):
            code = "wrong_output"
        if isinstance(error, OSError) and error.errno in OUT_OF_SPACE:
            code = "disk_limit"
        if isinstance(error, MemoryError) or (wanting and isinstance(error, RuntimeError)):
            code = "memory_limit"
        text = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"[:8000]
        channel.send("error", code=code, kind_of_error=type(error).__name__[:60], text=text)


def main() -> None:
    channel = Channel(os.dup(0), os.dup(1))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)  # what a submission prints is no message
    set_bounds(json.loads(sys.argv[1]))

    global numpy, recording, torch
    import numpy
    import torch

    sys.path.insert(0, "/grader")
    from sampler_plan.plan import record as recording

    sys.path.remove("/grader")
    torch.set_num_threads(1)
    serve(channel)


if __name__ == "__main__":
    main()
