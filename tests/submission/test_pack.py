"""The manifest of protected files, what goes into a submission, and the zip."""

import json
import sys
import zipfile

import pytest
import torch

from custom_model import create_custom_model
from src.common.checkpoints import save_model
from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.submission import __main__ as command
from src.submission.contents import CODE, foreign_imports, imported_modules, source_files
from src.submission.manifest import PROTECTED, differences, hash_file, read_manifest, restore
from src.submission.pack import pack
from tests.helpers import TINY, call, fails, fill_by_rule


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


def test_the_manifest_is_that_of_this_kit():
    """After a change of a protected file: python -m src.submission.manifest."""
    assert list(read_manifest()) == list(PROTECTED)
    assert differences(PROJECT_ROOT) == {}


def test_line_endings_do_not_count(tmp_path):
    unix, dos, other = (tmp_path / name for name in ("unix", "dos", "other"))
    unix.write_bytes(b"a = 1\nb = 2\n")
    dos.write_bytes(b"a = 1\r\nb = 2\r\n")
    other.write_bytes(b"a = 1\nb = 3\n")
    assert hash_file(unix) == hash_file(dos) != hash_file(other)


def test_restore_replaces_files_links_and_folders(tmp_path):
    folder, outside = tmp_path / "handed_in", tmp_path / "outside"
    folder.mkdir()
    restore(folder)
    assert differences(folder) == {}
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
    assert set(restore(folder)) == {
        "src/network.py",
        "src/module.py",
        "sampling.py",
        "data/train_split.txt",
        "data/val_split.txt",
    }
    assert differences(folder) == {}
    assert sorted(path.name for path in outside.iterdir()) == ["keep"]
    assert (outside / "keep").read_text() == "untouched"


def test_what_goes_in_is_what_training_and_sampling_import(run, tmp_path):
    chosen = source_files(PROJECT_ROOT)
    assert {"src/network.py", "src/methods/shortcut.py", "src/training/loop.py", "src/evaluation/fid.py"} <= set(chosen)
    assert not [name for name in chosen if name.startswith(("src/submission", "src/challenges")) or "__pycache__" in name]
    assert foreign_imports(PROJECT_ROOT, [*chosen, *CODE]) == {}


def test_imports_are_found_wherever_they_stand(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/mine.py").write_text(
        "def f():\n    import diffusers.models\n    from . import other\n    import torch, json\n"
    )
    (tmp_path / "src/other.py").write_text("from timm import create_model\n")
    assert {"diffusers.models", "src.other"} <= imported_modules(tmp_path / "src/mine.py", tmp_path)
    names = ["src/mine.py", "src/other.py"]
    assert foreign_imports(tmp_path, names) == {"diffusers": ["src/mine.py"], "timm": ["src/other.py"]}
    (tmp_path / "src/other.py").write_text("from timm import (\n")
    with pytest.raises(UserError, match=r"other\.py: not a Python file"):
        foreign_imports(tmp_path, names)


def test_pack(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "submission.zip"
    assert call(command, monkeypatch, "pack", run, "--out", out) == 0
    names = names_of(out)
    wanted = {*CODE, "requirements.txt", "checkpoints/best_model.pt", "checkpoints/model_config.json", "writeup.pdf"}
    assert wanted | {"results/log.jsonl", "src/network.py"} <= set(names)
    assert not [name for name in names if "resume" in name or "submission" in name]
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


def test_a_changed_protected_file_is_named(run, tmp_path, monkeypatch):
    changed = {name: digest if name != "src/network.py" else "0" * 64 for name, digest in read_manifest().items()}
    monkeypatch.setattr(sys.modules["src.submission.manifest"], "read_manifest", lambda: changed)
    with pytest.raises(UserError, match=r"src/network\.py \(changed\)"):
        pack(run, tmp_path / "submission.zip", None)
