"""Submissions that the grader is tried on: honest ones, and cheats and faults made from them.

Cheats of code are the functions of of_code.py, which stands as custom_model.py in a submission whose own custom_model.py is
called honest.py. Cheats of the archive and the checkpoint are the tables here.
"""

import inspect
import io
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from src.challenges.toon.drawing import toon_faces
from src.common.checkpoints import save_model
from src.common.files import PROJECT_ROOT
from src.submission.handin.contents import CHECKPOINT, CONFIG, source_files
from tests.helpers import TINY, tiny_model
from tests.submission.cheats import of_code

OF_CODE = sorted(
    name
    for name, cheat in vars(of_code).items()
    if inspect.isfunction(cheat) and cheat.__module__ == of_code.__name__ and cheat.__doc__
)


def honest(folder: Path, method: str = "rectified_flow") -> Path:
    """A submission of the kit's own code and a tiny network with fixed weights."""
    names = ("custom_model.py", "train.py", "dataset.py", "requirements.txt", "measure_fid.py", "sampling.py")
    for name in (*names, *source_files(PROJECT_ROOT)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT_ROOT / name, folder / name)
    save_model(tiny_model(method), folder / CHECKPOINT, {"method": method, **TINY})
    return folder


def cheat(folder: Path, name: str, **words: object) -> str:
    """The cheat of code of this name, with words of its text replaced; returns what becomes of it."""
    honest(folder, "custom")
    if name == "ema_copy":
        change_checkpoint(folder, lambda state: copy_network(state, "ema_network"))
    if name == "fifth_network":
        pictures = torch.from_numpy(toon_faces(40, seed=5)).float() / 127.5 - 1
        change_checkpoint(folder, lambda state: state.update({"fifth.head.weight": pictures}))
    if name == "stored_pictures":
        stored = stored_pictures(40)
        change_checkpoint(folder, lambda state: state.update(pictures=stored))
        if words["PICKED"] == "detector":
            for other in ("detector", "second", "third"):
                change_checkpoint(folder, lambda state, other=other: copy_network(state, other))
        words["NUMBER_OF_BYTES"] = len(stored)
    text = inspect.getsource(of_code).replace("from custom_model", "from honest") + f"\n\nuse({name})\n"
    for word, value in words.items():
        assert word in text
        text = text.replace(word, str(value))
    (folder / "custom_model.py").rename(folder / "honest.py")
    (folder / "custom_model.py").write_text(text)
    return getattr(of_code, name).__doc__.partition(":")[0]


def copy_network(state: dict, name: str) -> None:
    own = {key: value for key, value in state.items() if key.startswith("network.")}
    state.update({key.replace("network.", f"{name}.", 1): value for key, value in own.items()})


def stored_pictures(count: int) -> torch.Tensor:
    """Toon faces as WebP files in one uint8 tensor: their count, their lengths, the files."""
    files = []
    for face in toon_faces(count, seed=5):
        file = io.BytesIO()
        Image.fromarray(face.transpose(1, 2, 0)).save(file, "WEBP", quality=20)
        files.append(file.getvalue())
    lengths = np.array([len(file) for file in files], dtype=np.uint32).tobytes()
    return torch.frombuffer(bytearray(bytes([count]) + lengths + b"".join(files)), dtype=torch.uint8)


# ------------------------------------------------------------------------------------- archives: they are to be unsafe


def archive(path: Path, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("custom_model.py", "")
        for name, data in members:
            file.writestr(name, data)
    return path


def link_out(path: Path) -> Path:
    member = zipfile.ZipInfo("results")
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return archive(path, (member, b"/etc"))


def bomb(path: Path) -> Path:
    return archive(path, ("data.bin", bytes(64 << 20)))


def lying_size(path: Path) -> Path:
    """A member of a megabyte that is said to be of one byte."""
    archive(path, ("data.bin", os.urandom(1 << 20)))
    data = path.read_bytes()
    size = (1 << 20).to_bytes(4, "little")
    assert size in data
    path.write_bytes(data.replace(size, (1).to_bytes(4, "little")))
    return path


ARCHIVES: dict[str, Callable[[Path], Path]] = {
    "parent_path": lambda path: archive(path, ("../evil.py", b"")),
    "absolute_path": lambda path: archive(path, ("/tmp/evil.py", b"")),
    "windows_path": lambda path: archive(path, ("..\\evil.py", b"")),
    "drive": lambda path: archive(path, ("C:evil.py", b"")),
    "link_out": link_out,
    "bomb": bomb,
    "many_files": lambda path: archive(path, *((f"{number}.py", b"") for number in range(5001))),
    "file_and_folder": lambda path: archive(path, ("a", b""), ("a/b", b"")),
    "twice": lambda path: archive(path, ("a.py", b"1"), ("./a.py", b"2")),
}


# ---------------------------------------------------------------------------------------- checkpoints: code, what it is


HEAD = "network.head.weight"


class RunsCode:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def change_checkpoint(folder: Path, change: Callable[[dict], object]) -> None:
    state = torch.load(folder / CHECKPOINT, weights_only=True)["state_dict"]
    change(state)
    torch.save({"state_dict": state}, folder / CHECKPOINT)


def changed(change: Callable[[dict], object]) -> Callable[[Path], None]:
    return lambda folder: change_checkpoint(folder, change)


def head(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return changed(lambda state: state.update({HEAD: change(state[HEAD])}))


def small_view_of_much(folder: Path) -> None:
    """A state of two numbers that lie far apart in a large storage is small: what is kept is the two."""
    change_checkpoint(folder, lambda state: state.update(table=torch.arange(1 << 20)[:: (1 << 19)]))


def list_of_tensors(compression: int) -> Callable[[Path], None]:
    """A list of tensors that takes a thousand times its size in memory."""

    def write(folder: Path) -> None:
        with zipfile.ZipFile(folder / CHECKPOINT, "w", compression) as file:
            file.writestr("archive/data.pkl", b"\x80\x02" + b"}" * (16 << 20))

    return write


def old_format(folder: Path) -> None:
    state = torch.load(folder / CHECKPOINT, weights_only=True)
    torch.save(state, folder / CHECKPOINT, _use_new_zipfile_serialization=False)


def half_a_checkpoint(folder: Path) -> None:
    data = (folder / CHECKPOINT).read_bytes()
    (folder / CHECKPOINT).write_bytes(data[: len(data) // 2])


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle_code": (
        lambda folder: torch.save({"state_dict": RunsCode(folder / "executed")}, folder / CHECKPOINT),
        "unsafe_pickle",
    ),
    "stored_buffer": (
        changed(lambda state: state.update(images=torch.zeros(20, 3, 64, 64, dtype=torch.uint8))),
        "stored_images",
    ),
    "other_width": (
        lambda folder: save_model(tiny_model(ch=16), folder / CHECKPOINT, {"method": "custom", **TINY, "ch": 16}),
        "wrong_architecture",
    ),
    "absent_tensor": (changed(lambda state: state.pop("network.tail.2.bias")), "wrong_architecture"),
    "sparse_weights": (head(torch.Tensor.to_sparse), "bad_checkpoint"),
    "meta_weights": (head(lambda weights: weights.to("meta")), "bad_checkpoint"),
    "float8_weights": (head(lambda weights: weights.to(torch.float8_e4m3fn)), "bad_checkpoint"),
    "quantised_weights": (head(lambda weights: torch.quantize_per_tensor(weights, 0.1, 0, torch.qint8)), "bad_checkpoint"),
    "expanded_buffer": (changed(lambda state: state.update(table=torch.zeros(()).expand(1 << 38))), "bad_checkpoint"),
    "integer_weights": (head(lambda weights: weights.to(torch.int64)), "wrong_architecture"),
    "compressed_checkpoint": (list_of_tensors(zipfile.ZIP_DEFLATED), "bad_checkpoint"),
    "endless_list": (list_of_tensors(zipfile.ZIP_STORED), "bad_checkpoint"),
    "old_format": (old_format, "bad_checkpoint"),
    "much_beside_the_network": (changed(lambda state: state.update(table=torch.zeros(65 << 20))), "stored_images"),
    "weights_not_finite": (
        changed(lambda state: state["network.tail.2.bias"].fill_(float("nan"))),
        "wrong_architecture",
    ),
    "no_checkpoint": (lambda folder: (folder / CHECKPOINT).unlink(), "missing_file"),
    "half_a_checkpoint": (half_a_checkpoint, "missing_file"),
    "no_json": (lambda folder: (folder / CONFIG).write_text("{"), "missing_file"),
}
