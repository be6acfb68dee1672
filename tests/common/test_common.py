import json
import os
import pickle
import random
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from custom_model import create_custom_model
from src import utils
from src.common import cli, devices, files, images
from src.common.checkpoints import load_model, save_model
from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from tests.helpers import BOTH_PRECISIONS, TINY, tiny_model

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


def test_pixels_survive_the_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(images.to_uint8(images.from_uint8(pixels)), pixels)


def test_image_seeds_do_not_depend_on_the_batch():
    seeds = images.image_seeds(42, 0, 10)
    assert images.image_seeds(42, 4, 3) == seeds[4:7]
    assert len(set(seeds)) == 10 and images.image_seeds(43, 0, 10) != seeds


def test_save_and_load(saved):
    model = load_model(saved, create_custom_model)
    for name, value in tiny_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert set(torch.load(saved, weights_only=True)) == {"state_dict"}
    assert json.loads((saved.parent / "model_config.json").read_text()) == json.loads(json.dumps(CONFIG))


def test_config_elsewhere_and_bare_state_dict(saved, tmp_path):
    torch.save(tiny_model().state_dict(), tmp_path / "bare.pt")
    os.rename(tmp_path / "model_config.json", tmp_path / "other.json")
    load_model(tmp_path / "bare.pt", create_custom_model, config_path=tmp_path / "other.json")


def break_checkpoint(path, how):
    if how == "absent":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "text":
        path.write_text("hello")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "foreign":
        torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict()}, path)
    elif how == "no tensors":
        torch.save({"state_dict": {"a": 1}}, path)
    elif how == "runs code":
        path.write_bytes(pickle.dumps(Malicious(path.parent / "ran")))
    elif how == "runs code in a zip":
        torch.save({"state_dict": Malicious(path.parent / "ran")}, path)


class Malicious:
    """Loaded by a plain unpickler, it makes a folder."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("absent", "no checkpoint at"),
        ("truncated", "damaged or not a checkpoint"),
        ("text", "not a"),
        ("empty", "damaged or not a checkpoint"),
        ("foreign", "does not fit the model"),
        ("no tensors", "not a model checkpoint"),
        ("runs code", "may run code"),
        ("runs code in a zip", "may run code"),
    ],
)
def test_bad_checkpoints(saved, how, message):
    break_checkpoint(saved, how)
    with pytest.raises(UserError, match=message) as caught:
        load_model(saved, create_custom_model)
    assert "\n" not in str(caught.value)
    assert not (saved.parent / "ran").exists(), "the checkpoint ran code"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no file"),
        ('{"method": "custom", ', "malformed JSON"),
        ("[1, 2]", "expected a JSON object"),
        ('{"method": "nothing"}', "unknown method 'nothing'"),
        ('{"method": "custom", "colour": 3}', r"unknown options colour .*valid are ch, ch_mult"),
        ('{"method": "custom", "ch": "wide"}', "build no model"),
    ],
)
def test_bad_configs(saved, text, message):
    path = saved.parent / "model_config.json"
    path.unlink() if text is None else path.write_text(text)
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
        with files.write_whole(tmp_path / "folder") as partial:
            partial.mkdir()
            (partial / f"{text}.txt").write_text(text)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new.txt"]
    with pytest.raises(KeyError), files.write_whole(tmp_path / "folder") as partial:
        partial.mkdir()
        raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "new.txt"]


def test_scripts_end_in_one_line(capsys):
    def fail():
        raise UserError("no bread: buy some")

    with pytest.raises(SystemExit) as caught:
        cli.run_script(fail)
    assert caught.value.code == 2 and capsys.readouterr().err == "error: no bread: buy some\n"

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        cli.run_script(interrupted)
    assert caught.value.code == 130


def test_devices(capsys):
    assert devices.resolve_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        assert devices.resolve_device("cuda").type == "cpu"
        assert "no CUDA device" in capsys.readouterr().out
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        devices.resolve_device("gpu")


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
