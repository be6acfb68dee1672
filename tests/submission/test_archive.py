"""What may not be unpacked is not, and what may arrives whole, however it was packed."""

import io
import os
import unicodedata
import zipfile
from pathlib import Path

import pytest

from src.submission import bounds
from src.submission.failures import Failed
from src.submission.handin.archive import content_hash, readable, unpack
from tests.submission.cheats import ARCHIVES, archive, lying_size

CLUTTER = (
    "__MACOSX/._custom_model.py",
    "a/._b.py",
    "a/Thumbs.db",
    "desktop.ini",
    "a/.DS_Store",
    ".git/config",
    "__pycache__/x.pyc",
)


def packed(*names: str, **files: bytes) -> bytes:
    """A zip file of these names, each file's content its name, and of files given with theirs."""
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as file:
        for name, data in {**{name: name.encode() for name in names}, **files}.items():
            file.writestr(name, data)
    return stored.getvalue()


def lay(folder: Path, *names: str, **files: bytes) -> Path:
    """The same as a folder."""
    for name, data in {**{name: name.encode() for name in names}, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def either(kind: str, path: Path, *names: str) -> Path:
    """These names as a zip file or as a folder."""
    if kind == "folder":
        return lay(path, *names)
    path.write_bytes(packed(*names))
    return path


def unpacked(source: Path, tmp_path: Path) -> tuple[set[str], list[str]]:
    """The files of a submission and what is remarked; nothing lies beside them afterwards."""
    out = tmp_path / "work" / "out"
    remarks = unpack(source, out)
    assert list(out.parent.iterdir()) == [out] and all("\n" not in remark for remark in remarks)
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}, remarks


@pytest.mark.parametrize("nested", [False, True], ids=["", "in a zip"])
@pytest.mark.parametrize("name", ARCHIVES)
def test_unsafe_archives(name, nested, tmp_path):
    path = ARCHIVES[name](tmp_path / "team.zip")
    if nested:
        path.write_bytes(packed(**{"inner.zip": path.read_bytes()}))
    with pytest.raises(Failed, match=r"^unsafe_archive: "):
        unpack(path, tmp_path / "a" / "b")
    assert {entry.name for entry in tmp_path.iterdir()} == {"team.zip", "a"}
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["b"], "nothing beside the folder"


def test_bytes_are_counted_as_they_come(tmp_path, monkeypatch):
    """The sizes that an archive declares are not believed."""
    path = archive(tmp_path / "team.zip", ("data.bin", os.urandom(1 << 20)))
    monkeypatch.setattr(bounds, "ARCHIVE_BYTES", 1 << 20)
    unpack(path, tmp_path / "b")
    monkeypatch.setattr(bounds, "ARCHIVE_BYTES", (1 << 20) - 1)
    with pytest.raises(Failed, match="unsafe_archive: more than 1 MB"):
        unpack(path, tmp_path / "a")
    with pytest.raises(Failed):
        unpack(lying_size(tmp_path / "lying.zip"), tmp_path / "c")


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
    with pytest.raises(Failed, match="unsafe_archive: “data” is a link"):
        unpack(team, tmp_path / "again")
    (team / "data").unlink()
    os.mkfifo(team / "pipe")
    with pytest.raises(Failed, match="unsafe_archive: “pipe” is no plain file"):
        unpack(team, tmp_path / "third")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 and no more"])
def test_no_zip(data, tmp_path):
    (tmp_path / "team.zip").write_bytes(data)
    with pytest.raises(Failed, match="missing_file"):
        unpack(tmp_path / "team.zip", tmp_path / "out")
    with pytest.raises(Failed, match="missing_file"):
        unpack(tmp_path / "absent.zip", tmp_path / "other")


# ------------------------------------------------------------------------------------------------ wrapped in one way or another


@pytest.mark.parametrize("kind", ["zip", "folder"])
@pytest.mark.parametrize("wrapper", ["", "team/", "hand in/팀 3/final/"])
def test_wrapping_folders_and_clutter(kind, wrapper, tmp_path):
    source = either(
        kind, tmp_path / "source", *(wrapper + name for name in ("custom_model.py", "src/a.py", *CLUTTER)), *CLUTTER
    )
    files, remarks = unpacked(source, tmp_path)
    assert files == {"custom_model.py", "src/a.py"}
    assert remarks == ([f"the submission is the folder “{wrapper[:-1]}” inside of it"] if wrapper else [])


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_files_beside_a_wrapping_folder(kind, tmp_path):
    """The write-up is part of what was handed in; the rest is named."""
    beside = ("report.PDF", "a/b/notes.txt", "other/x.py", *(f"{number}.png" for number in range(9)))
    files, remarks = unpacked(either(kind, tmp_path / "source", "a/b/c/custom_model.py", *beside), tmp_path)
    assert files == {"custom_model.py", "report.PDF"}
    (remark,) = remarks
    assert remark.startswith("the submission is the folder “a/b/c” inside of it; left out beside it: ")
    assert "“0.png”" in remark and remark.endswith(" and 7 more")


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_what_is_on_top_counts(kind, tmp_path):
    names = {"custom_model.py", "old/custom_model.py", "report.pdf", "data.zip"}
    assert unpacked(either(kind, tmp_path / "source", *names), tmp_path) == (names, [])
    lower = either(kind, tmp_path / "lower", "a/custom_model.py", "b/old/custom_model.py", "a/report.pdf", "report.pdf")
    files, remarks = unpacked(lower, tmp_path / "lower work")
    assert (
        files == {"custom_model.py", "report.pdf"} and "left out beside it: “report.pdf”, “b/old/custom_model.py”" in remarks[0]
    )
    assert (tmp_path / "lower work" / "work" / "out" / "report.pdf").read_text() == "a/report.pdf"


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_two_candidates(kind, tmp_path):
    source = either(kind, tmp_path / "source", "x/first/custom_model.py", "x/second/custom_model.py", "x/y/z/custom_model.py")
    with pytest.raises(Failed, match=r"^missing_file: custom_model.py stands in “x/first”, “x/second”: hand in one"):
        unpack(source, tmp_path / "out")


# ------------------------------------------------------------------------------------------------------------ zips in it


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_a_zip_inside(kind, tmp_path):
    """A folder of an export, and a zip file that was zipped again, or the whole zip of an export's folder."""
    inner = packed("team/custom_model.py", *CLUTTER)
    content = {"Kim_12/code.zip": inner, "Kim_12/notes.txt": b"", "__MACOSX/._code.zip": b"", "Kim_12/._code.zip": b""}
    source = tmp_path / "source"
    if kind == "folder":
        lay(source, **content)
    else:
        source.write_bytes(packed(**content))
    files, remarks = unpacked(source, tmp_path)
    assert files == {"custom_model.py"}
    assert remarks == [
        "the submission is “code.zip” inside of it; left out: “Kim_12/notes.txt”",
        "the submission is the folder “team” inside of it",
    ]


def test_zips_in_zips_have_an_end(tmp_path):
    """A zip file is looked into once more, one in a folder too."""
    once, twice = packed("custom_model.py"), packed(**{"a.zip": packed("custom_model.py")})
    thrice = packed(**{"b.zip": twice})
    (tmp_path / "thrice.zip").write_bytes(thrice)
    assert unpacked(tmp_path / "thrice.zip", tmp_path / "1")[0] == {"a.zip"}
    assert unpacked(lay(tmp_path / "folder", **{"b.zip": twice}), tmp_path / "2")[0] == {"custom_model.py"}
    assert len(unpacked(lay(tmp_path / "other", **{"b.zip": once}), tmp_path / "3")[1]) == 1


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_several_zips_inside(kind, tmp_path):
    source = either(kind, tmp_path / "source", "final.zip", "really final.zip")
    with pytest.raises(
        Failed, match=r"^missing_file: “final.zip”, “really final.zip”: 2 zip files and no custom_model.py; hand in"
    ):
        unpack(source, tmp_path / "out")


def test_the_bounds_hold_in_zips_of_zips(tmp_path, monkeypatch):
    """Files and bytes are counted together."""
    data = os.urandom(1 << 20)
    (tmp_path / "team.zip").write_bytes(packed(**{"inner.zip": packed(**{"custom_model.py": b"", "data": data})}))
    monkeypatch.setattr(bounds, "ARCHIVE_BYTES", 5 << 19)
    unpack(tmp_path / "team.zip", tmp_path / "0" / "a")
    for name, value in {"ARCHIVE_BYTES": 2 << 20, "ARCHIVE_FILES": 2}.items():
        monkeypatch.setattr(bounds, name, value)
        with pytest.raises(Failed, match=r"^unsafe_archive: more than"):
            unpack(tmp_path / "team.zip", tmp_path / name / "a")
        assert [path.name for path in (tmp_path / name).iterdir()] == ["a"]
        monkeypatch.setattr(bounds, name, 5 << 19)


def test_links_in_clutter_are_clutter(tmp_path):
    folder = lay(tmp_path / "team", "custom_model.py", ".git/config")
    (folder / ".git" / "link").symlink_to("/etc")
    assert unpacked(folder, tmp_path) == ({"custom_model.py"}, [])


# ----------------------------------------------------------------------------------------------------------------- names


def test_backslashes(tmp_path):
    """Old Windows tools write them for folders: it says how to zip again."""
    (tmp_path / "team.zip").write_bytes(packed("custom_model.py", "src\\utils.py"))
    with pytest.raises(Failed, match=r"^unsafe_archive: “src\\utils.py” has backslashes .* zip it again with Explorer"):
        unpack(tmp_path / "team.zip", tmp_path / "out")


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-8", "모델 설명.txt"),
        ("cp949", "모델 설명.txt"),
        ("cp949", "가" * 121),
        ("gb18030", "模型說明 誠.txt"),
        ("cp437", "résumé à 5 £.txt"),
    ],
)
def test_names_of_other_systems(encoding, name, tmp_path):
    """In a code page, and without a word of which."""
    coded = name.encode(encoding)
    blank = b"x" * len(coded)
    source = tmp_path / "team.zip"
    source.write_bytes(packed(**{"custom_model.py": b"", blank.decode(): b""}).replace(blank, coded))
    if len(name.encode()) > 255:
        with pytest.raises(Failed, match=r"^unsafe_archive: “가+\.\.\.” is too long: .* shorter"):
            unpack(source, tmp_path / "out")
    else:
        assert unpacked(source, tmp_path) == ({"custom_model.py", name}, [])


def test_names_are_composed(tmp_path):
    (tmp_path / "team.zip").write_bytes(packed("custom_model.py", unicodedata.normalize("NFD", "모듈.py")))
    assert unpacked(tmp_path / "team.zip", tmp_path)[0] == {"custom_model.py", "모듈.py"}


def test_text_of_any_bytes():
    assert readable(bytes(range(256)))
    assert readable("가".encode("cp949")) == readable("가".encode()) == "가"


@pytest.mark.parametrize("letter", ["x", "가"])
def test_long_names(letter, tmp_path):
    """As long as file systems take them, and no longer."""
    name = letter * (251 // len(letter.encode())) + ".txt"
    names = ("custom_model.py", name, f"a/{name}", "model:v0/x.py")
    (tmp_path / "team.zip").write_bytes(packed(*names))
    assert unpacked(tmp_path / "team.zip", tmp_path)[0] == set(names)
    for number, long in enumerate([f"{letter}{name}xxx", "/".join(["x" * 200] * 6)]):
        (tmp_path / f"{number}.zip").write_bytes(packed(long))
        with pytest.raises(Failed, match=r"^unsafe_archive: .* is too long"):
            unpack(tmp_path / f"{number}.zip", tmp_path / str(number))
