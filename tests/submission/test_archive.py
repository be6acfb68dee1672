"""What may not be unpacked is not, and what may arrives whole."""

import os
import zipfile

import pytest

from src.submission.archive import ArchiveLimits, content_hash, copy_code, unpack
from src.submission.failures import Failed
from tests.submissions import ARCHIVES, archive, lying_size


@pytest.mark.parametrize("name", ARCHIVES)
def test_unsafe_archives(name, tmp_path):
    path = ARCHIVES[name](tmp_path / "team.zip")
    with pytest.raises(Failed, match=r"^unsafe_archive: "):
        unpack(path, tmp_path / "a" / "b")
    assert {entry.name for entry in tmp_path.iterdir()} == {"team.zip", "a"}
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["b"], "nothing beside the folder"


def test_bytes_are_counted_as_they_come(tmp_path):
    """The sizes that an archive declares are not believed."""
    path = archive(tmp_path / "team.zip", ("data.bin", os.urandom(1 << 20)))
    with pytest.raises(Failed, match="unsafe_archive: more than 1 MB"):
        unpack(path, tmp_path / "a", ArchiveLimits(bytes=(1 << 20) - 1))
    unpack(path, tmp_path / "b", ArchiveLimits(bytes=1 << 20))
    with pytest.raises(Failed):
        unpack(lying_size(tmp_path / "lying.zip"), tmp_path / "c")


@pytest.mark.parametrize("inside", ["", "team/"])
def test_zip_with_and_without_a_top_folder(inside, tmp_path):
    path = tmp_path / "team.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("custom_model.py", "src/a.py", "src/notes.txt"):
            file.writestr(inside + name, name)
        for name in ("__MACOSX/._custom_model.py", "src/__pycache__/a.cpython-310.pyc"):
            file.writestr(name, "")
    unpack(path, tmp_path / "out")
    files = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert files == {"custom_model.py", "src/a.py", "src/notes.txt"}
    assert copy_code(tmp_path / "out", tmp_path / "code") == ["custom_model.py", "src/a.py"]
    assert (tmp_path / "code" / "src" / "a.py").read_text() == "src/a.py" and not (tmp_path / "code/src/notes.txt").exists()


def test_folders(tmp_path):
    team = tmp_path / "team"
    team.mkdir()
    (team / "custom_model.py").write_text("x")
    first = content_hash(team)
    unpack(team, tmp_path / "out")
    assert (tmp_path / "out" / "custom_model.py").read_text() == "x"
    (team / "custom_model.py").write_text("y")
    assert content_hash(team) != first
    (team / "data").symlink_to("/etc")
    with pytest.raises(Failed, match="unsafe_archive: data is a link"):
        unpack(team, tmp_path / "again")
    (team / "data").unlink()
    os.mkfifo(team / "pipe")
    with pytest.raises(Failed, match="unsafe_archive: pipe is no plain file"):
        unpack(team, tmp_path / "third")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 and no more"])
def test_no_zip(data, tmp_path):
    (tmp_path / "team.zip").write_bytes(data)
    with pytest.raises(Failed, match="missing_file"):
        unpack(tmp_path / "team.zip", tmp_path / "out")
    with pytest.raises(Failed, match="missing_file"):
        unpack(tmp_path / "absent.zip", tmp_path / "other")
