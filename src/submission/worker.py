"""What runs inside the sandbox: it builds the submission's model and answers the grader's requests for images.

Nothing here is trusted: a submission shares the process and may do to it what it likes. It has no weights of the network, no
data and no device. Its network's forward is a message to the grader, which holds the weights, computes the call and counts
it. The file stands alone (the standard library, torch and numpy), since no other of the grader's files is in the sandbox.

Messages, both ways: a byte count of a JSON header (4 bytes), one of the payload (8 bytes), both little-endian, then the two.
"""

import ctypes
import errno
import importlib
import json
import os
import random
import resource
import struct
import sys

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
LENGTHS = struct.Struct("<IQ")
OUT_OF_SPACE = (27, 28, 122)  # EFBIG, ENOSPC, EDQUOT
NETWORK_EVENTS = ("socket.__new__", "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
PROCESS_EVENTS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec", "pty.spawn")
HARMLESS_PROGRAMS = ("fc-list", "gcc", "cc", "lscpu", "uname", "ldconfig")  # asked for by libraries, which go on without
READ_EVENTS = ("os.listdir", "os.scandir")
WRITE_EVENTS = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
)


class Channel:
    """The pipe to the grader."""

    def __init__(self, reading: int, writing: int):
        self.reading, self.writing = reading, writing

    def send(self, kind: str, tensors: dict | None = None, **fields: object) -> None:
        parts = [(name, *to_bytes(tensor)) for name, tensor in (tensors or {}).items()]
        described = {name: {"dtype": dtype, "shape": shape} for name, dtype, shape, _ in parts}
        header = json.dumps({"kind": kind, "tensors": described, **fields}).encode()
        payload = b"".join(data for *_, data in parts)
        data = memoryview(LENGTHS.pack(len(header), len(payload)) + header + payload)
        while data:
            data = data[os.write(self.writing, data) :]

    def receive(self) -> tuple[dict, dict]:
        """The next message: its header, and its tensors by name. Ends the process when the grader has closed the pipe."""
        header_length, payload_length = LENGTHS.unpack(self._read(LENGTHS.size))
        header = json.loads(self._read(header_length))
        payload, tensors, start = bytearray(self._read(payload_length)), {}, 0
        for name, described in header["tensors"].items():
            dtype, shape = getattr(torch, described["dtype"]), described["shape"]
            size = dtype.itemsize
            for length in shape:
                size *= length
            part = payload[start : start + size]
            tensors[name] = torch.frombuffer(part, dtype=dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
            start += size
        return header, tensors

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            part = os.read(self.reading, min(count, 1 << 20))
            if not part:
                os._exit(0)
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def to_bytes(tensor: "torch.Tensor") -> tuple[str, list[int], bytes]:
    """A tensor's dtype, shape and bytes."""
    import torch  # here as in main, after confine: namespaces are made by a process of one thread

    tensor = tensor.detach().contiguous()
    return str(tensor.dtype).removeprefix("torch."), list(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


# -------------------------------------------------------------------------------------------------------------- confining


def set_limits(limits: dict) -> None:
    """Limits of the kernel that cannot be lifted again."""
    cpu = int(limits["setup_seconds"] + 3600 * 24)  # the grader ends the process long before, by what it reads outside
    values = {
        resource.RLIMIT_DATA: limits["memory"],
        resource.RLIMIT_FSIZE: limits["disk"],
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 256,
    }
    for kind, value in values.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def make_namespaces() -> None:
    """Leave the machine's users, mounts, network and message queues for new ones. OSError where the kernel refuses."""
    user, group = os.geteuid(), os.getegid()
    _call("unshare", 0x10000000 | 0x00020000 | 0x40000000 | 0x08000000)  # NEWUSER, NEWNS, NEWNET, NEWIPC
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def confine(config: dict) -> None:
    """The sandbox where bubblewrap is not: namespaces, hidden folders, all mounts read-only, then the filter of system calls.

    /proc is hidden too: it would show the memory of the user's other processes.
    """
    make_namespaces()
    _call("mount", None, b"/", None, 0x4000 | 0x40000, None)  # REC, PRIVATE: nothing below is seen outside
    for path in (*config["hidden"], "/proc"):
        if os.path.isdir(path):
            _call("mount", b"none", os.fsencode(path), b"tmpfs", 0, b"size=4096")
        else:
            _call("mount", b"/dev/null", os.fsencode(path), None, 0x1000, None)  # BIND
    attributes = struct.pack("<QQQQ", 1, 0, 0, 0)  # MOUNT_ATTR_RDONLY
    _call("syscall", 442, -100, b"/", 0x8000, attributes, len(attributes))  # mount_setattr of / and all below
    size = f"size={config['limits']['disk']}".encode()
    _call("mount", b"none", os.fsencode(config["scratch"]), b"tmpfs", 0, size)
    program = bytes.fromhex(config["seccomp"])
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _call("capset", struct.pack("<Ii", 0x20080522, 0), bytes(24))  # no rights left over the new namespaces
    _call("prctl", 38, 1, 0, 0, 0)  # NO_NEW_PRIVS
    _call("prctl", 22, 2, described, 0, 0)  # SECCOMP, filter
    os.chdir(config["code"])


def _call(name: str, *arguments: object) -> None:
    values = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*values) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def watch(channel: Channel, config: dict) -> None:
    """From now on an attempt at what the sandbox refuses anyway ends the process and tells the grader why.

    An audit hook cannot be taken away again. What it says is for the reason's sake: the refusal is the kernel's.
    """
    code, scratch = config["code"], config["scratch"]
    libraries = [os.path.realpath(path) for path in config["readable"]] + config["readable"]

    def below(path: str, folders: list) -> bool:
        return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders if folder)

    def end(reason: str, event: str, subject: object) -> None:
        channel.send("error", code=reason, text=f"{event} {subject!r}"[:300])
        os._exit(3)

    def hook(event: str, arguments: tuple) -> None:
        if event in NETWORK_EVENTS:
            end("network_denied", event, arguments[1:])
        if event == "subprocess.Popen" and os.path.basename(os.fsdecode(arguments[0])) in HARMLESS_PROGRAMS:
            raise PermissionError(errno.EPERM, "no process is started here", arguments[0])
        if event in PROCESS_EVENTS:
            end("process_limit", event, arguments[:1])
        if event != "open" and event not in READ_EVENTS and event not in WRITE_EVENTS:
            return
        if not arguments or not isinstance(arguments[0], (str, bytes)):
            return
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.endswith(".pyc"):
            return
        writing = event in WRITE_EVENTS
        if event == "open":
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            writing = bool(set(arguments[1] or "") & set("wax+")) or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writing and not below(path, [scratch, "/dev"]):
            end("write_denied", event, path)
        if not writing and not below(path, libraries) and not (below(path, [code]) and os.path.exists(path)):
            end("read_denied", event, path)

    sys.addaudithook(hook)


# ------------------------------------------------------------------------------------------------------------ the model


def build(channel: Channel) -> "torch.nn.Module":
    """Make the submission's model, with its own small tensors from the checkpoint, and networks that ask the grader."""
    header, extras = channel.receive()
    sys.path.insert(0, header["code"])
    skip_downloads()
    from custom_model import create_custom_model

    model = create_custom_model(device="cpu", **header["model_config"])
    places = {plain_name(f"{name}." if name else ""): name for name, _ in model.named_modules()}
    own, state = model.state_dict(), {}
    for prefix, shapes in header["networks"].items():
        place = places.get(plain_name(prefix))
        found = None if place is None else model.get_submodule(place)
        network = find_network(channel, prefix, shapes, found, header["network_class"])
        network.forward = asking(channel, prefix)
        state |= {f"{place}.{name}" if place else name: tensor for name, tensor in network.state_dict().items()}
    zeros = {name: torch.zeros(shape, dtype=getattr(torch, dtype)) for name, dtype, shape in header["zeros"]}
    names = {plain_name(name): name for name in own}
    for name, tensor in {**extras, **zeros}.items():
        state[name if name in own else names.get(plain_name(name), name)] = tensor
    model.load_state_dict(state)
    model.eval()
    method = header["model_config"].get("method") or header["model_config"].get("model_type")
    channel.send("ready", method=str(method or type(model).__name__)[:100])
    return model


def find_network(
    channel: Channel, prefix: str, shapes: dict, found: "torch.nn.Module | None", expected: str
) -> "torch.nn.Module":
    """What stands in the model for a network of the checkpoint: of the expected class or the course's, or the process ends."""
    module, _, name = expected.rpartition(".")
    place = f"model.{prefix.rstrip('.')}"
    if type(found) not in (getattr(importlib.import_module(module), name), importlib.import_module("src.network").UNet):
        what = "absent" if found is None else type(found).__name__
        fail(channel, "wrong_architecture", f"{place} is {what}, expected {expected}, as in the checkpoint")
    if {name: list(tensor.shape) for name, tensor in found.state_dict().items()} != shapes:
        fail(channel, "wrong_architecture", f"{place} has not the shapes of the checkpoint's network")
    return found


def asking(channel: Channel, prefix: str) -> object:
    """The forward of the network of this prefix: a message to the grader, and its answer."""

    def forward(x, timestep, condition=None, labels=None) -> "torch.Tensor":  # all but x: tensors of any shape, or numbers
        given = {"timestep": timestep, "condition": condition, "labels": labels}
        scalars = {name: torch.as_tensor(value).reshape(-1) for name, value in given.items() if value is not None}
        cast = str(torch.get_autocast_dtype("cpu")).removeprefix("torch.") if torch.is_autocast_enabled("cpu") else "float32"
        channel.send("call", {"x": x, **scalars}, network=prefix, precision=cast)
        return channel.receive()[1]["answer"]

    return forward


def plain_name(name: str) -> str:
    """A name without what torch.compile and DataParallel add to it."""
    return ".".join(part for part in name.split(".") if part not in ("_orig_mod", "module"))


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


def fail(channel: Channel, code: str, text: str) -> None:
    channel.send("error", code=code, text=text)
    os._exit(3)


def serve(channel: Channel) -> None:
    """Build the model, then answer every request for images, until the grader closes the pipe."""
    from torch.utils import flop_counter

    mode = getattr(flop_counter, "_FlopCounterMode", flop_counter.FlopCounterMode)
    count = mode.__torch_dispatch__  # the first call imports torch's compiler, for seconds, to keep it away from the counter
    mode.__torch_dispatch__ = getattr(count, "__wrapped__", count)
    with torch.no_grad(), flop_counter.FlopCounterMode(display=False) as counter:
        model = build(channel)
        while True:
            header, _ = channel.receive()
            shape, seeds = tuple(header["shape"]), header["seeds"]
            random.seed(seeds[0])
            numpy.random.seed(seeds[0] % 2**32)
            torch.manual_seed(seeds[0])
            more = {"seeds": seeds} if getattr(model, "takes_seeds", False) else {}
            if header["labels"] is not None:
                more["labels"] = torch.tensor(header["labels"])
            with torch.autocast("cpu", torch.bfloat16, enabled=header["bfloat16"]):
                images = model.sample(shape, num_inference_timesteps=header["nfe"], verbose=False, **more)
            if not isinstance(images, torch.Tensor):
                fail(channel, "wrong_output", f"sample() gave {type(images).__name__}, expected a tensor")
            channel.send("images", {"images": images}, flop=counter.get_total_flops())


def main() -> None:
    config = json.loads(sys.argv[1])
    if "try" in config:
        make_namespaces()
        return
    channel = Channel(os.dup(0), os.dup(1))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)  # what a submission prints is no message
    set_limits(config["limits"])
    if config["confine"]:
        confine(config)

    global numpy, torch
    import numpy
    import torch
    import torch.utils.flop_counter

    torch.set_num_threads(1)
    watch(channel, config)
    try:
        serve(channel)
    except MemoryError:
        fail(channel, "memory_limit", "no memory left")
    except OSError as error:
        fail(channel, "disk_limit" if error.errno in OUT_OF_SPACE else "crashed", f"{type(error).__name__}: {error}")
    except Exception as error:  # whatever a submission raises: told to the grader, which fails it
        text = str(error)
        code = "memory_limit" if "can't allocate memory" in text or "not enough memory" in text else "crashed"
        fail(channel, code, f"{type(error).__name__}: {text}"[:1000])


if __name__ == "__main__":
    main()
