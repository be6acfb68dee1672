"""The protected files, what goes into a submission, and the zip."""

import json
import shutil
import subprocess
import zipfile

import pytest
import torch

from custom_model import create_custom_model
from src.common.checkpoints import save_model
from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.submission import __main__ as command
from src.submission import bounds
from src.submission.handin import kit
from src.submission.handin.contents import CODE, Import, closure, foreign_imports, imports, source_files
from src.submission.handin.pack import check_code, pack
from src.submission.handin.weights import read_tensors
from tests.foreign import lay_out
from tests.helpers import TINY, call, fails, fill_by_rule
from tests.processes import forked_python

HISTORY = kit.history  # before a fixture puts another in its place


@pytest.fixture
def run(tmp_path):
    """A finished run of a tiny network whose images matter, with a write-up."""
    model = create_custom_model(**TINY)
    fill_by_rule(model.network)
    folder = tmp_path / "run"
    save_model(model, folder / "last.ckpt", {"method": "custom", **TINY})
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    (folder / "resume.pt").write_bytes(b"not handed in")
    (folder / "writeup.pdf").write_bytes(b"%PDF-1.4 a stand-in")
    return folder


def names_of(path):
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_all_that_the_staffs_scripts_import_is_protected():
    """But custom_model.py, and what that alone imports; a new challenge needs no step beside its file or folder."""
    names = set(kit.protected_files())
    course = {"dataset.py", "src/base_model.py", "src/network.py", "src/module.py"}
    assert {"sampling.py", "measure_fid.py", "data/val_split.txt", *course} <= names and "custom_model.py" not in names
    files = {path.relative_to(PROJECT_ROOT).as_posix() for path in (PROJECT_ROOT / "src/challenges").rglob("*.py")}
    files.remove("src/challenges/shared/training_data.py")  # of train.py alone
    assert files <= names and not [name for name in names if name.startswith(("src/methods", "src/submission"))]


def test_what_a_folder_has_of_the_protected_files(tmp_path, monkeypatch):
    """Whatever its line ends, with or without a byte order mark."""
    files = {
        "sampling.py": (b"print('today')\n", "kit"),
        "dataset.py": (b"\xef\xbb\xbfprint('original')\r\n", "course"),
        "measure_fid.py": (b"print('mine')\n", "changed"),
        "src/network.py": (bytes(bounds.KIT_FILE_BYTES + 1), "changed"),
        "src/module.py": (None, "absent"),
    }
    (tmp_path / "src").mkdir()
    for name, (data, _) in files.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    monkeypatch.setitem(kit.COURSE, "dataset.py", kit.hashes_of(tmp_path / "dataset.py")[1])
    known = {name: {"0"} for name in files} | {"sampling.py": {"0", kit.hashes_of(tmp_path / "sampling.py")[0]}}
    assert kit.states(tmp_path, known) == {name: state for name, (_, state) in files.items()}
    (tmp_path / "sampling.py").write_bytes(b"print('today')\r\n")
    assert kit.states(tmp_path, known)["sampling.py"] == "kit"


def git(folder, *words):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_an_older_kit_is_known_by_its_history(tmp_path, monkeypatch):
    """By one call of git for all files; a changed file is none, nor is what only lies here uncommitted, to its author."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed: apt install git")
    clone, team = tmp_path / "clone", tmp_path / "team"
    monkeypatch.setattr(kit, "PROJECT_ROOT", clone)
    monkeypatch.setattr(kit, "protected_files", lambda: ("sampling.py", "new.py"))
    monkeypatch.setattr(kit, "history", HISTORY.__wrapped__)
    for folder in (clone, team):
        folder.mkdir()
    (clone / "sampling.py").write_text("a = 1\n")
    (clone / "new.py").write_text("b = 1\n")
    (team / "sampling.py").write_bytes(b"a = 1\r\n")
    assert kit.history() == {} and kit.states(team, kit.known_blobs())["sampling.py"] == "kit", (
        "a zip of the kit has no history"
    )
    git(clone, "init", "-q")
    git(clone, "add", "sampling.py")
    git(clone, "commit", "-qm", "1")
    blob = git(clone, "rev-parse", "HEAD:sampling.py")
    (clone / "sampling.py").write_text("a = 2\n")
    git(clone, "commit", "-qam", "2")
    assert blob == kit.hashes_of(team / "sampling.py")[0] and blob in kit.history()["sampling.py"]
    assert kit.states(team, kit.known_blobs()) == {"sampling.py": "kit", "new.py": "absent"}
    (team / "sampling.py").write_text("a = 3\n")
    (team / "new.py").write_text("b = 1\n")
    assert kit.states(team, kit.known_blobs()) == {"sampling.py": "changed", "new.py": "kit"}
    (clone / "sampling.py").write_text("a = 3\n")
    assert (
        kit.states(team, kit.known_blobs())["sampling.py"] == "kit"
        and kit.states(team, kit.known_blobs(handed_out=True))["sampling.py"] == "changed"
    )
    monkeypatch.setattr(kit.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError("git")))
    assert kit.history() == {}


def test_restore_replaces_files_links_and_folders(tmp_path):
    folder, outside = tmp_path / "handed_in", tmp_path / "outside"
    folder.mkdir()
    kit.restore(folder)
    assert set(kit.states(folder, kit.known_blobs()).values()) == {"kit"}
    outside.mkdir()
    (outside / "keep").write_text("untouched")
    for path in (folder / "data").iterdir():
        path.unlink()
    (folder / "data").rmdir()
    (folder / "data").symlink_to(outside)
    (folder / "src/network.py").write_text("class UNet: pass\n")
    (folder / "src/module.py").unlink()
    (folder / "src/module.py").mkdir()
    (folder / "sampling.py").unlink()
    (folder / "sampling.py").symlink_to(outside / "keep")
    kit.restore(folder)
    assert set(kit.states(folder, kit.known_blobs()).values()) == {"kit"}
    assert sorted(path.name for path in outside.iterdir()) == ["keep"]
    assert (outside / "keep").read_text() == "untouched"


def test_what_goes_in_is_what_training_and_sampling_import(run, tmp_path):
    chosen = source_files(PROJECT_ROOT)
    assert {"src/network.py", "src/methods/shortcut.py", "src/training/loop.py", "src/evaluation/fid.py"} <= set(chosen)
    assert not [name for name in chosen if name.startswith(("src/submission", "tests")) or "__pycache__" in name]
    assert foreign_imports(PROJECT_ROOT, [*chosen, *CODE]) == {}


def test_imports_are_found_wherever_they_stand(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/mine.py").write_text(
        """
import importlib
from typing import TYPE_CHECKING
from . import other
if TYPE_CHECKING:
    import wandb
try:
    import xformers.ops as ops
except (ImportError, RuntimeError):
    import timm
try:
    import apex
finally:
    pass
def f():
    import diffusers.models
    importlib.import_module("lpips.nets")
    __import__("einops")
"""
    )
    (tmp_path / "src/other.py").write_text("from accelerate import Accelerator\n")
    found = set(imports(tmp_path / "src/mine.py", tmp_path))
    optional = {"wandb", "xformers.ops", "timm", "diffusers.models", "lpips.nets", "einops"}
    assert {Import("src.other", True), Import("apex", True), *(Import(name, False) for name in optional)} <= found
    names = ["src/mine.py", "src/other.py"]
    needed = {"apex": ["src/mine.py"], "accelerate": ["src/other.py"]}
    assert foreign_imports(tmp_path, names, needed_only=True) == needed
    assert set(foreign_imports(tmp_path, names)) == {*needed, "wandb", "xformers", "timm", "diffusers", "einops"}
    (tmp_path / "src/other.py").write_text("from timm import (\n")
    with pytest.raises(UserError, match=r"other\.py: not a Python file"):
        foreign_imports(tmp_path, names)


def test_modules_and_packages_of_the_students_are_followed(tmp_path):
    for name, text in {
        "custom_model.py": "import model_file\nfrom mylib.nets.build import build\nimport importlib\n"
        "importlib.import_module('plugins.late')\n",
        "model_file.py": "from mylib import scheduler\n",
        "mylib/__init__.py": "",
        "mylib/scheduler.py": "from .nets import blocks\n",
        "mylib/unused.py": "",
        "mylib/nets/build.py": "",  # a package without __init__.py
        "mylib/nets/blocks.py": "",
        "plugins/__init__.py": "import os\n",
        "plugins/late.py": "",
        "plugins/found_by_its_package.py": "",
        "experiment.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert closure(tmp_path, ["custom_model.py"]) == {
        *("custom_model.py", "model_file.py", "mylib/__init__.py", "mylib/scheduler.py", "mylib/nets/build.py"),
        *("mylib/nets/blocks.py", "plugins/__init__.py", "plugins/late.py", "plugins/found_by_its_package.py"),
    }


def test_pack(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "submission.zip"
    assert call(command, monkeypatch, "pack", run, "--out", out) == 0
    names = names_of(out)
    expected = {*CODE, "requirements.txt", "checkpoints/best_model.pt", "checkpoints/model_config.json", "writeup.pdf"}
    assert expected | {"results/log.jsonl", "src/network.py"} <= set(names)
    assert not [name for name in names if "resume.pt" in name or "submission" in name]
    listed = capsys.readouterr().out
    assert all(name in listed for name in names)

    first = out.read_bytes()
    pack(run, out, run / "writeup.pdf")
    assert out.read_bytes() == first, "the same run packs to the same bytes"
    with zipfile.ZipFile(out) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert json.loads((tmp_path / "unpacked/checkpoints/model_config.json").read_text())["method"] == "custom"
    saved = torch.load(tmp_path / "unpacked/checkpoints/best_model.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in torch.load(run / "last.ckpt")["state_dict"].items())


@pytest.mark.slow
def test_float16_is_half_the_size_or_refused(run, tmp_path):
    full, half = tmp_path / "full.zip", tmp_path / "half.zip"
    pack(run, full, None)
    pack(run, half, None, float16=True)
    with zipfile.ZipFile(half) as small, zipfile.ZipFile(full) as large:
        sizes = [archive.getinfo("checkpoints/best_model.pt").file_size for archive in (small, large)]
    assert sizes[0] < 0.7 * sizes[1]
    with pytest.raises(UserError, match=r"change the images by .* at NFE 4 .* leave out --float16"):
        pack(run, tmp_path / "refused.zip", None, float16=True, bound=1e-9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full.zip", "half.zip", "run"]


def test_bad_runs_are_refused(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "submission.zip"

    def refused(*flags):
        return fails(command, monkeypatch, capsys, "pack", *flags, "--out", out)

    assert "holds no last.ckpt" in refused(tmp_path / "nowhere")
    assert "ends in .zip" in fails(command, monkeypatch, capsys, "pack", run, "--out", tmp_path / "a.tar")
    (run / "writeup.pdf").unlink()
    assert "no write-up at" in refused(run)
    assert call(command, monkeypatch, "pack", run, "--out", out, "--no_writeup") == 0
    out.unlink()
    (run / "model_config.json").write_text('{"method": "custom", "ch": 16}')
    assert "does not fit" in refused(run, "--no_writeup")
    assert not out.exists()
    assert "expected one of pack, check, grade" in fails(command, monkeypatch, capsys, "send")


def test_the_author_reads_what_the_staff_replace(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kit, "history", lambda: {"src/network.py": {"0" * 40}})
    pack(run, tmp_path / "submission.zip", None)
    printed = capsys.readouterr().out
    assert "note: changed, the staff will put their own in place: src/network.py\n" in printed
    absent = "no training_config.json (settings of the training), no training_curves.png (curves), no metrics.jsonl (scores; "
    assert f"note: left out, since {run} has none of it: {absent}" in printed


def in_a_clone(folder, model, *flags):
    """Pack a foreign model in a clone of the kit that its author works in; what the command said, and the zip."""
    for name in (*kit.protected_files(), *CODE, "requirements.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT_ROOT / name, folder / name)
    shutil.copytree(PROJECT_ROOT / "src", folder / "src", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    lay_out(folder.with_name("theirs"), model)
    for path in folder.with_name("theirs").rglob("*"):
        name = path.relative_to(folder.with_name("theirs")).as_posix()
        if path.is_file() and name not in kit.protected_files() and name not in ("train.py", "src/utils.py"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / name)
    command = [forked_python(), "-m", "src.submission", "pack", "checkpoints", "--no_writeup", "--out", "out.zip", *flags]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.stdout + done.stderr, folder / "out.zip"


def test_a_package_of_the_students_goes_along(tmp_path):
    folder = tmp_path / "clone"
    (folder / "mylib").mkdir(parents=True)
    (folder / "mylib/table.npy").touch()
    said, out = in_a_clone(folder, "package")
    own = {"model_file.py", "mylib/__init__.py", "mylib/scheduler.py", "mylib/nets/build.py", "custom_model.py"}
    assert own <= set(names_of(out)) and not [name for name in names_of(out) if name.startswith(("tests", "src/submission"))]
    assert "these do not go along: mylib/table.npy" in said


@pytest.mark.slow
def test_what_is_not_in_the_project_is_refused(tmp_path):
    (tmp_path / "clone").mkdir()
    said, out = in_a_clone(tmp_path / "clone", "flow_plain")
    assert out.exists() and "error" not in said
    with (tmp_path / "clone/custom_model.py").open("a") as file:
        file.write("import my_other_project\n")
    with pytest.raises(UserError, match=r"neither in this project nor .*: my_other_project \(in custom_model\.py\)"):
        check_code(tmp_path / "clone", ["custom_model.py"])


@pytest.mark.slow
def test_slim_leaves_out_what_sampling_does_not_use(tmp_path):
    """The file has all names and shapes, loads as strictly as before, and makes the same images."""
    (tmp_path / "clone").mkdir()
    said, out = in_a_clone(tmp_path / "clone", "ema_copy", "--slim")
    assert "are left out: sampling does not use them" in said
    with zipfile.ZipFile(out) as archive:
        archive.extract("checkpoints/best_model.pt", tmp_path)
    small, full = (folder / "checkpoints/best_model.pt" for folder in (tmp_path, tmp_path / "clone"))
    assert small.stat().st_size < 0.75 * full.stat().st_size, "a tiny network is half small tensors"
    before, after = (torch.load(path, weights_only=True)["state_dict"] for path in (full, small))
    assert all(before[name].shape == after[name].shape for name in before) and before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("ema_network."))
    assert not after["network.head.weight"].any() or before["network.head.weight"].numel() < 1024
    prepared = read_tensors(tmp_path, TINY)
    assert list(prepared.networks) == ["ema_network.", "network."]
