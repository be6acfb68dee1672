"""The checklist of a submission: an honest one passes, and every fault is named by the check that it belongs to."""

import io
import zipfile

import pytest
import torch

from custom_model import create_custom_model
from src.common.checkpoints import save_model
from src.submission import __main__ as command
from src.submission.handin import check
from src.submission.handin.contents import CHECKPOINT, CONFIG, REQUIRED
from src.submission.handin.pack import pack
from tests.helpers import TINY, call, fill_by_rule, slow_but
from tests.processes import forked_python


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The zip of a finished run of a tiny network."""
    folder = tmp_path_factory.mktemp("run")
    model = create_custom_model(**TINY)
    fill_by_rule(model.network)
    save_model(model, folder / "last.ckpt", {"method": "custom", **TINY})
    pack(folder, folder / "submission.zip", None)
    return folder / "submission.zip"


def altered(honest, tmp_path, changes):
    """A copy of the zip with other bytes under some names; None leaves a name out."""
    path = tmp_path / "altered.zip"
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            if name not in changes:
                target.writestr(name, source.read(name))
        for name, data in changes.items():
            if data is not None:
                target.writestr(name, data)
    return path


FAST = ("required files", "protected files", "imports", "requirements.txt", "weights")


def found(source, tmp_path, *names):
    """The results of these checks, by name."""
    results = check.check(source, tmp_path / "unpacked", names, python=forked_python(), network=TINY, num_samples=2)
    return {result.name: result for result in results}


@pytest.mark.slow
def test_an_honest_submission_passes(honest, tmp_path):
    names = [name for name in check.CHECKS if name != "write-up"]
    results = found(honest, tmp_path, *names)
    assert [result.name for result in results.values() if result.todo] == []
    assert "NFE 1: 1 network call, 2 operations, 2 numbers; NFE 2: 2 network calls" in results["plan"].found
    assert "2 images at NFE 1, 2, 4" in results["sampling"].found


def other_weights():
    file = io.BytesIO()
    torch.save({"state_dict": create_custom_model(**{**TINY, "ch": 16}).state_dict()}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("required files", {"train.py": None}, "absent: train.py"),
        ("required files", {CHECKPOINT: None}, f"absent: {CHECKPOINT}"),
        ("required files", {CONFIG: None}, f"absent: {CONFIG}"),
        ("required files", {"requirements.txt": None}, "absent: requirements.txt"),
        ("required files", {"src/network.py": None}, "absent: src/network.py"),
        ("imports", {"src/methods/mine.py": b"import diffusers\n"}, "diffusers in src/methods/mine.py"),
        ("imports", {"src/methods/mine.py": b"def (\n"}, "not a Python file"),
        ("weights", {CHECKPOINT: b"not a checkpoint"}, CHECKPOINT),
        ("weights", {CHECKPOINT: other_weights()}, "it has in another shape"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_a_fault_is_named_by_its_check(honest, tmp_path, name, changes, message):
    result = found(altered(honest, tmp_path, changes), tmp_path, name)[name]
    assert message in result.found and result.todo


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("protected files", {"dataset.py": b"print('mine')\n"}, "changed, the staff put their own in place: dataset.py"),
        ("protected files", {"src/network.py": b"class UNet: pass\n", "src/module.py": b""}, "src/network.py, src/module.py"),
        ("imports", {"train.py": b"import torch_xla\n"}, "not needed for sampling: torch_xla in train.py"),
        ("imports", {"custom_model.py": b"try:\n    import lpips, xformers\nexcept Exception:\n    pass\n"}, "xformers in"),
        ("training starts", {"train.py": b"import torch_xla\n"}, "not started: train.py needs"),
        ("requirements.txt", {"requirements.txt": b"\xef\xbb\xbftorch\nxformers==0.0.1  # faster\n"}, ": xformers"),
    ],
    ids=["protected", "two protected", "train", "guarded", "start", "requirements"],
)
def test_what_costs_nothing_is_a_note(honest, tmp_path, name, changes, message):
    result = found(altered(honest, tmp_path, changes), tmp_path, name)[name]
    assert result.verdict == "note" and message in result.found and not result.todo


def test_a_zip_from_windows_passes(honest, tmp_path):
    """All of its text files with CRLF line ends: the kit's own code stays the kit's."""
    with zipfile.ZipFile(honest) as archive:
        text = [name for name in archive.namelist() if name.endswith((".py", ".txt", ".json"))]
        changes = {name: archive.read(name).replace(b"\n", b"\r\n") for name in text}
    results = found(altered(honest, tmp_path, changes), tmp_path, *FAST).values()
    assert [result.verdict for result in results] == ["pass"] * len(FAST)


@pytest.mark.parametrize("name", REQUIRED)
def test_without_a_required_file_the_list_ends_there(honest, tmp_path, name, monkeypatch, capsys):
    """All checks are asked for; none of the others stumbles over what is absent, and the command says it in its last line."""
    path = altered(honest, tmp_path, {name: None})
    [result] = found(path, tmp_path, *check.CHECKS).values()
    assert result.name == "required files" and name in result.found and result.todo
    assert call(command, monkeypatch, "check", path, "--device", "cpu") == 2
    assert capsys.readouterr().err == "error: 1 of 9 checks failed: required files (8 were not run)\n"


CUSTOM = """
import torch
import custom_model_honest
from src.methods import register
from src.methods.rectified_flow import RectifiedFlow

@register("{name}")
class Changed(RectifiedFlow):
    Scheduler = custom_model_honest.CustomScheduler

    def sample(self, shape, num_inference_timesteps=20, **kwargs):
        {body}

def create_custom_model(device="cpu", method="custom", **options):
    return custom_model_honest.create_custom_model(device, "{name}", **options)
"""
SAMPLERS = {  # what sample() does -> the check that finds it, and what it says
    "return super().sample(shape, 2, **kwargs)": ("sampling", "the same images"),
    "return super().sample(shape, num_inference_timesteps, **kwargs)[:, :, ::2, ::2]": ("sampling", "expected (2, 3, 64, 64)"),
    "return super().sample(shape, num_inference_timesteps, seeds=[0] * shape[0])": ("sampling", "different noise are equal"),
    "raise KeyError('no grid for it')": ("sampling", "no grid for it"),
    "x = super().sample(shape, num_inference_timesteps, **kwargs); return x / x.std().item()": (
        "plan",
        "NFE 1: the value of a tensor that depends on noise or an answer was asked for at custom_model.py, line 12",
    ),
    "return super().sample(shape, num_inference_timesteps + 1, **kwargs)": ("plan", "too_many_calls: NFE 1"),
}


@pytest.mark.parametrize(
    "body", slow_but([body for body in SAMPLERS if "+ 1" in body or "KeyError" in body or "item()" in body], SAMPLERS)
)
def test_a_wrong_sampler_is_named(honest, tmp_path, body):
    with zipfile.ZipFile(honest) as archive:
        own = archive.read("custom_model.py")
    changed = {"custom_model.py": CUSTOM.format(name="changed", body=body).encode(), "custom_model_honest.py": own}
    name, message = SAMPLERS[body]
    result = found(altered(honest, tmp_path, changed), tmp_path, name)[name]
    assert message in result.found and result.todo


@pytest.mark.slow
def test_a_hanging_script_and_the_settings_of_this_process(honest, tmp_path, monkeypatch):
    """A process may take only so long, and sees no PYTHONPATH of whoever runs the check."""
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    script = b"import os, time\nprint('PYTHONPATH' in os.environ)\nprint('--num_iterations')\n"
    with zipfile.ZipFile(altered(honest, tmp_path, {"train.py": script})) as archive:
        archive.extractall(tmp_path / "here")
    submission = check.Submission(tmp_path / "here", {}, python=forked_python(), seconds=60)
    assert submission.run("train.py", "--help").split()[0] == "False"
    assert check.training_starts(submission)
    (tmp_path / "here/train.py").write_text("import time\ntime.sleep(60)\n")
    submission.seconds = 0.5
    with pytest.raises(check.NotPassed, match=r"took more than 0\.5 s"):
        check.training_starts(submission)


def test_command_line(honest, tmp_path, monkeypatch, capsys):
    """Every failed check is named in the last line; the exit code tells too. The course's network is not that of the tests."""
    monkeypatch.setattr(check, "CHECKS", {name: check.CHECKS[name] for name in FAST})
    assert call(command, monkeypatch, "check", honest, "--device", "cpu") == 2
    captured = capsys.readouterr()
    assert "FAIL  weights: wrong_architecture" in captured.out and captured.out.count("pass  ") == len(FAST) - 1
    assert captured.err == "error: 1 of 5 checks failed: weights\n"
    monkeypatch.setattr(check, "CHECKS", {"required files": check.CHECKS["required files"]})
    assert call(command, monkeypatch, "check", honest) == 0
    assert "all 1 checks passed" in capsys.readouterr().out
    assert call(command, monkeypatch, "check", tmp_path / "absent.zip") == 2
    assert "absent.zip: no such zip file" in capsys.readouterr().err
    assert call(command, monkeypatch, "check", honest, "--env", tmp_path / "absent.txt") == 2


def pdf(pages):
    """A PDF of empty pages."""
    canvas = pytest.importorskip(
        "reportlab.pdfgen.canvas", reason="reportlab is not installed: pip install -r requirements-writeup.txt"
    )
    file = io.BytesIO()
    sheet = canvas.Canvas(file)
    for _ in range(pages):
        sheet.drawString(100, 700, "Method")
        sheet.showPage()
    sheet.save()
    return file.getvalue()


@pytest.mark.parametrize(
    ("pages", "message"),
    [([], "found none"), ([1, 1], "found 0.pdf, 1.pdf"), ([3], "pages: 3 before the references"), ([2], "training details")],
    ids=["none", "two files", "three pages", "items missing"],
)
def test_the_write_up_is_checked(honest, tmp_path, pages, message):
    path = altered(honest, tmp_path, {f"{index}.pdf": pdf(count) for index, count in enumerate(pages)})
    result = found(path, tmp_path, "write-up")["write-up"]
    assert message in result.found and result.todo
