import argparse
import errno
import io
import json
import os
import pickle
import random
import re
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from custom_model import create_custom_model
from src import utils
from src.common import cli, devices, files, images, noise
from src.common.checkpoints import load_model, save_model
from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.common.processes import join_processes
from src.datasets.images import cached_array
from tests.helpers import BOTH_PRECISIONS, TINY, slow_but, tiny_model
from tests.processes import Python

CONFIG = {"method": "custom", **TINY}


@pytest.fixture
def saved(tmp_path):
    save_model(tiny_model(), tmp_path / "model.pt", CONFIG)
    return tmp_path / "model.pt"


def test_seed_everything_fixes_every_generator():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    utils.seed_everything(3)
    first = draw()
    utils.seed_everything(3)
    assert draw() == first
    utils.seed_everything(4)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_expand_t():
    assert utils.expand_t(torch.arange(2.0), torch.zeros(2, 3, 4, 4)).shape == (2, 1, 1, 1)
    assert utils.expand_t(torch.arange(2.0), torch.zeros(2, 7)).tolist() == [[0.0], [1.0]]


def test_pil_images():
    tensor = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0]).reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    (image,) = utils.tensor_to_pil_image(tensor)  # a list, also for a batch of one
    assert [image.getpixel((x, 0))[0] for x in range(6)] == [0, 0, 128, 191, 255, 255]
    assert isinstance(utils.tensor_to_pil_image(tensor[0]), Image.Image)
    assert len(utils.tensor_to_pil_image(torch.zeros(3, 3, 8, 8))) == 3
    with pytest.raises(ValueError, match="expected"):
        utils.tensor_to_pil_image(torch.zeros(8, 8))
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(images.to_uint8(images.from_uint8(pixels)), pixels)


def test_image_seeds_do_not_depend_on_the_batch():
    seeds = noise.image_seeds(42, 0, 10)
    assert noise.image_seeds(42, 4, 3) == seeds[4:7]
    assert len(set(seeds)) == 10 and noise.image_seeds(43, 0, 10) != seeds


def test_noise_between_two_seeds():
    """Theirs at the ends, standard normal on the way, as near to one as to the other in the middle."""
    shape, device = (100, 10, 10), torch.device("cpu")
    ends = [noise.draw_noise((1, *shape), device, [seed])[0] for seed in (3, 4)]
    shares = [0.0, 0.25, 0.5, 1.0]
    first, quarter, middle, last = noise.draw_noise((4, *shape), device, [noise.SeedBetween(3, 4, share) for share in shares])
    torch.testing.assert_close(torch.stack([first, last]), torch.stack(ends))
    torch.testing.assert_close(middle, (ends[0] + ends[1]) / 2**0.5)
    for between in (quarter, middle):
        assert abs(between.mean()) < 0.04 and abs(between.std() - 1) < 0.03  # of 10,000 values: 4 sigma
    later = noise.draw_noise((1, *shape), device, [noise.SeedBetween(3, 4, 0.25)], draw=1)
    assert not torch.allclose(later[0], quarter) and int(noise.SeedBetween(3, 4, 0.25)) == 3


def test_save_and_load(saved):
    model = load_model(saved, create_custom_model)
    for name, value in tiny_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert set(torch.load(saved, weights_only=True)) == {"state_dict"}
    assert json.loads((saved.parent / "model_config.json").read_text()) == json.loads(json.dumps(CONFIG))


def test_config_elsewhere_bare_weights_and_an_absent_config(saved, tmp_path, capsys):
    """Without one the model has its defaults, as the course's load_model has it."""
    torch.save(tiny_model().state_dict(), tmp_path / "bare.pt")
    os.rename(tmp_path / "model_config.json", tmp_path / "other.json")
    load_model(tmp_path / "bare.pt", create_custom_model, config_path=tmp_path / "other.json")
    created = []
    load_model(saved, lambda device, **options: created.append(options) or tiny_model())
    assert created == [{}] and "the model has its default options" in capsys.readouterr().out
    with pytest.raises(UserError, match="no file"):
        load_model(saved, create_custom_model, config_path=tmp_path / "named.json")


class Malicious:
    """Loaded by a plain unpickler, it makes a folder."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def other_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("checkpoints/best_model.pt", b"")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "no checkpoint at"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "cut off or damaged"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "cut off or damaged"),
        (lambda path: path.write_text("hello"), "not a"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"\n\n"), "the file is empty"),
        (
            lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"),
            "a pointer of Git LFS",
        ),
        (lambda path: path.write_bytes(b"<!DOCTYPE html><html><head><title>Sign in</title>"), "an HTML page"),
        (lambda path: path.write_bytes(b"\xef\xbb\xbf\n<html>"), "an HTML page"),
        (other_zip, "a zip file of something else"),
        (lambda path: torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict()}, path), "does not fit the model"),
        (lambda path: torch.save({"state_dict": {"a": 1}}, path), "not a model checkpoint"),
        (lambda path: path.write_bytes(pickle.dumps(Malicious(path.parent / "ran"))), "may run code"),
        (lambda path: torch.save({"state_dict": Malicious(path.parent / "ran")}, path), "may run code"),
    ],
)
def test_bad_checkpoints(saved, spoil, message):
    spoil(saved)
    with pytest.raises(UserError, match=message) as caught:
        load_model(saved, create_custom_model)
    assert "\n" not in str(caught.value)
    assert not (saved.parent / "ran").exists(), "the checkpoint ran code"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"method": "custom", ', "malformed JSON"),
        ("[1, 2]", "expected a JSON object"),
        ('{"method": "nothing"}', "unknown method 'nothing'"),
        ('{"method": "custom", "colour": 3}', r"unknown options colour .*valid are ch, ch_mult"),
        ('{"method": "custom", "ch": "wide"}', "build no model"),
    ],
)
def test_bad_configs(saved, text, message):
    (saved.parent / "model_config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_model(saved, create_custom_model)


def test_a_full_disk_leaves_the_old_checkpoint(saved):
    """A process that may write no more than 20 kB into a file, as on a full disk, keeps the old file and says why."""
    before = saved.read_bytes()
    code = (
        "import sys; from src.common.cli import run_script; from src.utils import save_model; "
        "from tests.helpers import tiny_model;"
        f"run_script(lambda: save_model(tiny_model(), {str(saved)!r}, {{}}))"
    )
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # noqa: E731
    result = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=PROJECT_ROOT, preexec_fn=limit, capture_output=True, text=True
    )
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.splitlines()) == 1 and "cannot write" in result.stderr
    assert saved.read_bytes() == before
    assert sorted(path.name for path in saved.parent.iterdir()) == ["model.pt", "model_config.json"]


def test_write_whole_replaces_a_folder_only_when_done(tmp_path):
    for text in ("old", "new"):
        with files.write_whole(tmp_path / "folder", folder=True) as partial:
            partial.mkdir()
            (partial / f"{text}.txt").write_text(text)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new.txt"]
    with pytest.raises(KeyError), files.write_whole(tmp_path / "folder", folder=True) as partial:
        partial.mkdir()
        raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "new.txt"]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_wrappers_are_taken_out(prefix, saved):
    """Of torch.compile and DataParallel, before the whole name or within it."""
    state = tiny_model().state_dict()
    for names in ({name: prefix + name for name in state}, {name: name.replace(".", f".{prefix}", 1) for name in state}):
        torch.save({"state_dict": {names[name]: value for name, value in state.items()}}, saved)
        loaded = load_model(saved, create_custom_model).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_missing_and_unexpected_names_are_told_apart(saved):
    state = tiny_model().state_dict()
    state["network.extra"] = state.pop("network.head.bias")
    state["network.head.weight"] = torch.zeros(2)
    torch.save({"state_dict": state}, saved)
    with pytest.raises(UserError) as caught:
        load_model(saved, create_custom_model)
    assert str(caught.value).endswith(
        "tensors missing: 1 (such as network.head.bias); tensors that the model lacks: 1 (such as network.extra); "
        "tensors of another shape: 1 (network.head.weight is (2,), expected (8, 3, 3, 3))"
    )


def test_numbers_of_numpy_beside_the_weights(saved):
    beside = {"fid": np.float64(3.2), "step": np.int64(7), "losses": np.arange(3.0, dtype=np.float32), "lr": 1e-4}
    torch.save({"state_dict": tiny_model().state_dict(), **beside}, saved)
    load_model(saved, create_custom_model)
    assert files.load_torch(saved)["fid"] == 3.2
    torch.save({"state_dict": tiny_model().state_dict(), "args": argparse.Namespace(lr=1)}, saved)
    with pytest.raises(UserError, match=r"refused, it holds a argparse\.Namespace"):
        load_model(saved, create_custom_model)


def test_texts_of_users_may_begin_with_a_mark(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}\r\n')
    assert files.load_json(path) == {"a": 1}
    path.write_text('{"a": 1}', encoding="utf-16")
    with pytest.raises(UserError, match="UTF-16; save it as UTF-8"):
        files.load_json(path)
    path.write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(UserError, match="not in UTF-8"):
        files.load_json(path)


def test_damaged_lines_of_a_log_are_told_and_left_out(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe{"step": 2}\n[3]\n{"step": 4}\n{"st')
    assert files.load_json_lines(path) == [{"step": 1}, {"step": 4}]
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[-1] for line in said] == [f"line {n} is damaged, and left out" for n in (2, 3)]


def test_write_whole_follows_links(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "elsewhere" / "real.txt")
    with files.write_whole(tmp_path / "link.txt") as partial:
        partial.write_text("new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "elsewhere" / "real.txt").read_text() == "new"
    (tmp_path / "nfe=1").symlink_to(tmp_path / "elsewhere")
    with files.write_whole(tmp_path / "nfe=1", folder=True) as partial:
        partial.mkdir()
    assert (tmp_path / "nfe=1").is_symlink() and not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "file"])
def test_what_is_no_file_is_refused_before_the_work(kind, tmp_path):
    path = Path(os.devnull) if kind == "device" else tmp_path / "out"
    {"pipe": os.mkfifo, "device": str, "folder": Path.mkdir, "file": Path.touch}[kind](path)
    before = path.stat()
    with pytest.raises(UserError, match="stands there"), files.write_whole(path, folder=kind == "file"):
        pytest.fail("the work was begun")
    assert path.stat().st_mode == before.st_mode


def test_names_as_long_as_a_disk_takes(tmp_path):
    name = "한" * 84 + ".md"
    assert len(name.encode()) == 255
    with files.write_whole(tmp_path / name) as partial:
        partial.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_picture_that_is_a_bomb_is_one_line():
    file = io.BytesIO()
    Image.new("1", (20000, 20000)).save(file, "PNG")
    file.seek(0)
    with pytest.raises(UserError, match=r"bomb\.png: too large a picture \(Image size \(400000000 pixels\)\)"):
        images.read_picture(file, "bomb.png")


@pytest.mark.parametrize(
    ("number", "code"),
    slow_but(
        [(signal.SIGTERM, 143), (signal.SIGINT, 130)],
        [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGUSR1, 138), (signal.SIGUSR2, 140)],
    ),
)
def test_a_signal_leaves_nothing_half_written(number, code, tmp_path):
    script = f"""
import os, signal, time
from src.common.cli import run_script
from src.common.files import write_whole
def main():
    with write_whole({str(tmp_path / "nfe=1")!r}, folder=True) as partial:
        partial.mkdir()
        (partial / "0000.png").touch()
        os.kill(os.getpid(), {int(number)})
        time.sleep(20)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what runs in the background ignore it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup this
run_script(main)
"""
    ended, _, errors = Python(PROJECT_ROOT, "-c", script).ended()
    assert ended == code and len(errors.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_scripts_end_in_one_line(capsys):
    for error, code, line in (
        (UserError("no bread: buy some"), 2, "error: no bread: buy some\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.run_script(Mock(side_effect=error))
        assert caught.value.code == code and capsys.readouterr().err == line


def test_the_home_folder_in_every_flag_and_variable(monkeypatch):
    """Shells write ~ out where it begins a word, but not in --flag=~/x, nor where it is quoted."""
    monkeypatch.setenv("HOME", "/home/someone")
    parser = cli.Parser()
    parser.add_argument("--save_dir")
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--options", nargs="+")
    parser.add_subparsers().add_parser("check").add_argument("file", type=Path)
    words = ["--options", "eta=1", "file=~/z", "a~b", "--save_dir=~/x", "--ckpt", "~/y=1/last.ckpt", "check", "~"]
    args = parser.parse_args(words)
    assert (args.save_dir, args.ckpt) == ("/home/someone/x", Path("/home/someone/y=1/last.ckpt"))
    assert args.options == ["eta=1", "file=/home/someone/z", "a~b"] and args.file == Path("/home/someone")
    monkeypatch.setattr(sys, "argv", ["train.py", "--save_dir=~"])
    assert parser.parse_args().save_dir == "/home/someone"
    monkeypatch.setenv("CHALLENGE_CACHE", "~/cache")
    assert files.cache_dir() == Path("/home/someone/cache")


@pytest.mark.parametrize("reason", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_refused_file_of_the_project_names_what_moves_it(tmp_path, monkeypatch, reason):
    monkeypatch.setattr(files, "PROJECT_ROOT", tmp_path / "kit")
    monkeypatch.delenv("CHALLENGE_CACHE", raising=False)

    def line(path):
        with pytest.raises(UserError) as caught, files.write_whole(path):
            raise OSError(reason, os.strerror(reason))
        return str(caught.value)

    cached = tmp_path / "kit" / "data" / "cache" / "features" / "x.npy"
    todo = "set the environment variable CHALLENGE_CACHE to a folder that can be written"
    assert line(cached) == f"cannot write {cached}: {os.strerror(reason)}; {todo}"
    assert line(tmp_path / "kit" / "x.json").endswith("; name another place for it on the command line (--help)")
    assert line(tmp_path / "x.json").endswith(os.strerror(reason))
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "full"))
    assert "CHALLENGE_CACHE" in line(tmp_path / "full" / "x.npy") and "CHALLENGE_CACHE" not in line(cached)


def test_a_cache_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    work = Mock(side_effect=AssertionError("worked first"))
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path))
    (tmp_path / "images").mkdir()
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"Permission denied; set the .* CHALLENGE_CACHE"):
        patch.setattr(os, "access", lambda *args: False)
        cached_array("key", work)
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"Read-only file system; set the .* CHALLENGE_CACHE"):
        patch.setattr(Path, "mkdir", Mock(side_effect=OSError(errno.EROFS, os.strerror(errno.EROFS))))
        cached_array("key", work)


def test_devices(capsys):
    assert devices.resolve_device("cpu") == devices.resolve_device("cpu:1") == torch.device("cpu")
    if not torch.cuda.is_available():
        assert devices.resolve_device("cuda").type == "cpu"
        assert "no CUDA device" in capsys.readouterr().out
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        devices.resolve_device("gpu")
    for name in ("meta", "hpu", "xla:1"):
        with pytest.raises(UserError, match=f"^device '{name}' is known to torch, but cannot be used here; expected cpu, cuda"):
            devices.resolve_device(name)


def test_a_gpu_that_is_absent_is_the_cpu_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    for name in ("cuda", "cuda:1", "mps", "mps:0"):
        assert devices.resolve_device(name) == torch.device(name)
    assert not capsys.readouterr().out
    lines = {"cuda:7": "no CUDA device 7, there are 2", "mps:1": "no MPS device 1, there are 1", "xpu": "no XPU device found"}
    lines["cuda:256"] = "no CUDA device 256, there are 2"  # which is 0 in torch's 8 bits
    for name, line in lines.items():
        assert devices.resolve_device(name) == torch.device("cpu")
        assert capsys.readouterr().out == f"{line}: running on the CPU\n"


def test_what_is_asked_of_a_gpu_is_asked_of_its_own_kind(monkeypatch):
    """Of stand-ins for the torch modules of GPUs, which are not here; mps takes no device as an argument."""
    calls = []

    class Module:
        def __init__(self, kind):
            self.kind = kind

        def __getattr__(self, name):
            return lambda *args: calls.append((self.kind, name, *map(str, args))) or f"{self.kind} {name}"

    monkeypatch.setattr(torch, "get_device_module", lambda device: Module(torch.device(device).type))
    monkeypatch.setattr(torch, "mps", Module("mps"))
    xpu, mps, cpu = (torch.device(name) for name in ("xpu:1", "mps", "cpu"))
    for device in (xpu, mps, cpu):
        devices.synchronize(device)
    assert calls == [("xpu", "synchronize", "xpu:1"), ("mps", "synchronize")]
    assert devices.device_name(xpu) == "xpu get_device_name" and devices.device_name(mps).startswith("mps (")
    assert devices.peak_memory(xpu) == "xpu max_memory_allocated" and devices.peak_memory(mps) is None
    assert (devices.float64_device(mps), devices.float64_device(xpu)) == (cpu, xpu)
    assert devices.resolve_precision("fp32", mps) == torch.float32 and not devices.has_native_bfloat16(mps)
    for device, place in ((xpu, ("xpu:1",)), (mps, ())):
        calls.clear()
        state = torch.get_rng_state()
        with devices.kept_random_state(device):
            torch.rand(3)
        assert torch.equal(state, torch.get_rng_state())
        kind = device.type
        assert calls == [(kind, "get_rng_state", *place), (kind, "set_rng_state", f"{kind} get_rng_state", *place)]


@pytest.mark.parametrize(
    ("name", "local", "message"),
    [
        ("cuda", 2, "4 processes on a machine with 2 CUDA device(s): start as many, or give --device cpu"),
        ("cuda:1", 0, "--device cuda:1: several processes cannot share it; give cuda, a GPU for each, or cpu"),
        ("mps", 0, "--device mps: several processes cannot share it; give cuda, a GPU for each, or cpu"),
    ],
)
def test_several_processes_need_a_gpu_each(name, local, message, monkeypatch):
    monkeypatch.setattr("src.common.processes.resolve_device", lambda name, say: torch.device(name))
    monkeypatch.setattr("src.common.processes.device_count", lambda kind: 2)
    environment = {"WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 4, "RANK": local, "LOCAL_RANK": local}
    for key, value in {**environment, "MASTER_ADDR": "a", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(key, str(value))
    with pytest.raises(UserError, match=re.escape(message)), join_processes(name):
        pass


def test_precision_follows_the_processor(monkeypatch):
    monkeypatch.delenv("CHALLENGE_PRECISION", raising=False)
    cpu = torch.device("cpu")
    for words, expected in (("fpu avx512_bf16 amx_bf16", torch.bfloat16), ("fpu avx512f", torch.float32)):
        monkeypatch.setattr(devices.Path, "read_text", lambda self, words=words: f"flags : {words}")
        assert devices.resolve_precision("auto", cpu) == expected
        assert devices.resolve_precision("bf16", cpu) == torch.bfloat16
        assert devices.resolve_precision("fp32", cpu) == torch.float32


@BOTH_PRECISIONS
def test_the_environment_says_what_auto_means(precision, monkeypatch):
    """On whatever processor, and of auto alone; a value that is neither ends in one line."""
    cpu = torch.device("cpu")
    monkeypatch.setenv("CHALLENGE_PRECISION", precision)
    for native in (True, False):
        monkeypatch.setattr(devices, "has_native_bfloat16", lambda device, native=native: native)
        assert devices.resolve_precision("auto", cpu) == devices.PRECISIONS[precision]
        assert devices.resolve_precision("fp32", cpu) == torch.float32
        assert devices.resolve_precision("bf16", cpu) == torch.bfloat16
    assert devices.precision_flag(devices.precision_name(devices.PRECISIONS[precision])) == precision
    monkeypatch.setenv("CHALLENGE_PRECISION", "half")
    with pytest.raises(UserError, match="CHALLENGE_PRECISION=half: expected bf16 or fp32"):
        devices.resolve_precision("auto", cpu)
    with pytest.raises(UserError, match="unknown precision 'float16'; expected bfloat16 or float32"):
        devices.precision_flag("float16")


def test_contact_sheet():
    rows = [np.full((3, 3, 8, 8), value, dtype=np.uint8) for value in (10, 200)]
    sheet = np.asarray(images.contact_sheet(rows, ["a", "b"], scale=2))
    assert sheet.shape[0] == 32 and (sheet[:16, -48:] == 10).all() and (sheet[16:, -48:] == 200).all()
