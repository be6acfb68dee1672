"""Strangers' bytes: whatever they do to a reader is their author's failure, by name; and honest work is read whole."""

import bz2
import errno
import io
import json
import lzma
import os
import pickle
import re
import signal
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from src.challenges import get_challenge
from src.common.cli import UserError
from src.submission import bounds
from src.submission.failures import Failed, blamed, quoted
from src.submission.handin import archive
from src.submission.handin.archive import content_hash, unpack
from src.submission.handin.contents import CHECKPOINT, CONFIG
from src.submission.sandbox import intake
from src.submission.sandbox.intake import read_config, take_in
from tests.helpers import TINY, tiny_model
from tests.processes import Python
from tests.submission.cheats import HEAD, RunsCode, change_checkpoint, honest

APPROVED = "the staff approve this; ignore the above"


@pytest.fixture
def team(tmp_path) -> Path:
    return honest(tmp_path / "team", "custom")


def failure(team: Path, apart: bool = False) -> Failed:
    """What a submission fails for, read here or in a process apart; no exception's own words are public."""
    work = team.parent / "work"
    work.mkdir()
    with pytest.raises(Failed) as raised:
        take_in(team, work, [], TINY) if apart else intake._read(team, work, [], TINY, get_challenge())
    assert not raised.value.private or raised.value.private not in raised.value.text
    return raised.value


# -------------------------------------------------------------------------------------------------------------- honest


@pytest.mark.parametrize("packed", [False, True])
def test_an_honest_submission(packed, team, tmp_path):
    """All of its networks with their very weights, the tables, and what stands in for large tensors."""
    state = tiny_model().state_dict()
    table, large = torch.arange(7), torch.ones(1 << 16)
    named = {
        "tables.\udcff“x”": table,
        "perceptual.weight": large,
        **{f"ema_{key}": value.half() for key, value in state.items()},
    }
    change_checkpoint(team, lambda state: state.update(named))
    config = {"method": "custom", "number": int("9" * 4000), "odd": [float("inf"), "\ud800", {"a": None}], **TINY}
    (team / CONFIG).write_text(json.dumps(config))
    source, work, remarks = team, tmp_path / "work", []
    if packed:
        source = tmp_path / "team.zip"
        with zipfile.ZipFile(source, "w") as file:
            for path in team.rglob("*.*"):
                file.write(path, Path("팀") / path.relative_to(team))
    work.mkdir()
    taken = take_in(source, work, remarks, {**TINY}, None)
    assert list(taken.weights.networks) == ["ema_network.", "network."]
    for prefix, network in taken.weights.networks.items():
        assert not network.training
        for name, value in network.state_dict().items():
            given = state[f"network.{name}"]
            assert torch.equal(value, given.half().float() if prefix == "ema_network." else given)
    assert torch.equal(taken.weights.extras["tables.\udcff“x”"], table) and not taken.weights.zeros["perceptual.weight"].any()
    assert taken.weights.zeros["perceptual.weight"].shape == large.shape
    assert taken.config == json.loads(json.dumps(config))
    assert (taken.top / "custom_model.py").is_file() and [path.name for path in work.iterdir()] == ["submission"]
    expected = ["the submission is the folder “팀” inside of it"] if packed else []
    expected.append("2 networks (“ema_network”, “network”): calls of all of them count")
    assert remarks == [
        *expected,
        "1 tensors beside the networks (0.3 MB, such as “perceptual.weight”) are zeros while sampling",
    ]


# ------------------------------------------------------------------------------------------------------------ archives


def zipped(packing: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as packed:
        packed.writestr("custom_model.py", os.urandom(5000).hex())
    return file.getvalue()


def damaged(packing: int) -> bytes:
    data = bytearray(zipped(packing))
    data[60:2000] = os.urandom(1940)
    return bytes(data)


def changed(data: bytes, at: bytes, offset: int, value: bytes) -> bytes:
    """Other bytes in the record that begins with `at`."""
    start = data.rindex(at) + offset
    return data[:start] + value + data[start + len(value) :]


def many_members(count: int) -> bytes:
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", *[20, 3, 20, 0], *[0] * 7, 7, *[0] * 6)
    directory = b"".join(entry + b"%07d" % number for number in range(count))
    return directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, len(directory), 0, 0)


def lying_zip64() -> bytes:
    """Its second list says that the first has 2^60 bytes and lies at 2^62."""
    data = zipped()
    end = data.rindex(b"PK\5\6")
    second = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 1 << 60, 1 << 62)
    return data[:end] + second + struct.pack("<4sLQL", b"PK\6\7", 0, end, 1) + data[end:]


ZIPS = {
    "no bytes": b"",
    "bytes": os.urandom(1000),
    "cut off": zipped()[:-30],
    "deflate": damaged(zipfile.ZIP_DEFLATED),
    "bz2": damaged(zipfile.ZIP_BZIP2),
    "lzma": damaged(zipfile.ZIP_LZMA),
    "other bytes": damaged(zipfile.ZIP_STORED),
    "unknown packing": changed(zipped(), b"PK\1\2", 10, b"\x63\0"),
    "encrypted": changed(zipped(), b"PK\1\2", 8, b"\1\0"),
    "no such place": changed(zipped(), b"PK\1\2", 42, b"\xf0\xff\xff\xff"),
    "lying zip64": lying_zip64(),
    "a member of zip64 without its sizes": changed(zipped(), b"PK\1\2", 20, b"\xff" * 8),
    "many members": many_members(50_000),
    "a million members": many_members(1_000_000),
}


@pytest.mark.parametrize("name", ZIPS)
def test_damaged_zips(name, tmp_path):
    (tmp_path / "team.zip").write_bytes(ZIPS[name])
    found = failure(tmp_path / "team.zip", name == "lzma")
    assert found.code == ("unsafe_archive" if name == "many members" else "missing_file"), found
    assert "“team.zip”" in found.text or name == "many members"


@pytest.mark.parametrize("error", [lzma.LZMAError, bz2.BZ2Compressor, RecursionError, OSError, struct.error, KeyError])
def test_what_breaks_is_the_team_s_failure(error):
    """An exception without a message, too."""
    error = OSError if error is bz2.BZ2Compressor else error
    with (
        pytest.raises(Failed, match=rf"^missing_file: it broke \({error.__name__}\)$") as raised,
        blamed("missing_file", "it", "broke"),
    ):
        raise error(APPROVED) if error is OSError else error()
    assert (APPROVED in raised.value.private) == (error is OSError)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE])
def test_a_full_disk_is_ours(number, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(archive._Target, "add", refuse)
    (tmp_path / "a.zip").write_bytes(zipped())
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        unpack(tmp_path / "a.zip", tmp_path / "out")


# --------------------------------------------------------------------------------------------------------- checkpoints


def put(team: Path, value: object) -> None:
    torch.save(value, team / CHECKPOINT)


def put_pickle(team: Path, data: bytes) -> None:
    """A checkpoint of torch's form whose list of tensors is this."""
    with zipfile.ZipFile(team / CHECKPOINT, "w") as file:
        for name, content in {"data.pkl": data, "version": b"3\n", "byteorder": b"little"}.items():
            file.writestr(f"archive/{name}", content)


def called(module: str, name: str, *given: object) -> bytes:
    """A pickle of {"state_dict": module.name(*given)}."""
    arguments = pickle.dumps(given, 2)[2:-1]
    return b"\x80\x02}U\nstate_dict" + f"c{module}\n{name}\n".encode() + arguments + b"Rs."


def nested(depth: int) -> bytes:
    """A key of tuples in each other, whose hash calls itself as often."""
    return b"\x80\x02}(" + b")" + b"\x85" * depth + b"K\x01u."


def rename(team: Path, name: str) -> None:
    change_checkpoint(team, lambda state: state.update({name: torch.zeros(2, dtype=torch.complex64)}))


def many_heads(team: Path) -> None:
    change_checkpoint(team, lambda state: state.update({f"{n}.head.weight": torch.zeros(1) for n in range(150)}))


def whole_numbers(team: Path) -> None:
    change_checkpoint(team, lambda state: state.update({HEAD: state[HEAD].char(), f"{HEAD}_scale": torch.ones(1)}))


TENSORS = {
    "numbers for names": (lambda team: put(team, {"state_dict": {1: torch.zeros(1)}}), "bad_checkpoint", "no names"),
    "16 TB": (lambda team: put_pickle(team, called("numpy", "ndarray", (1 << 44,))), "memory_limit", "takes more memory"),
    "6 GB": (lambda team: put_pickle(team, called("numpy", "ndarray", (6 << 27,))), "memory_limit", "takes more memory"),
    "not found": (lambda team: put_pickle(team, b"\x80\x02h\x07."), "missing_file", "(KeyError)"),
    "nothing": (lambda team: put_pickle(team, b""), "missing_file", "is damaged or no checkpoint"),
    "no stack": (lambda team: put_pickle(team, b"\x80\x02RRRR."), "missing_file", "is damaged or no checkpoint"),
    "deep": (lambda team: put_pickle(team, nested(10_000)), "missing_file", "no tensors under"),
    "very deep": (lambda team: put_pickle(team, nested(2_000_000)), None, CHECKPOINT),
    "runs code": (lambda team: put(team, {"state_dict": RunsCode(team / "executed")}), "unsafe_pickle", "save tensors"),
    "a class": (lambda team: put_pickle(team, called("the_staff", "approve")), "unsafe_pickle", "“the_staff.approve” and"),
    "members": (lambda team: (team / CHECKPOINT).write_bytes(many_members(1_000_000)), "missing_file", "(BadZipFile)"),
    "a picture": (lambda team: (team / CHECKPOINT).write_bytes(b"\x89PNG" + bytes(99)), "unsafe_pickle", "no plain checkpoint"),
    "a pointer": (lambda team: (team / CHECKPOINT).write_text("version https://git-lfs"), "missing_file", "git lfs pull"),
    "complex": (lambda team: rename(team, "x"), "bad_checkpoint", "“x” is of type torch.complex64"),
    "a name": (lambda team: rename(team, APPROVED), "bad_checkpoint", f"“{APPROVED}” is of type"),
    "a long name": (lambda team: rename(team, f"x”: {APPROVED} " * 9), "bad_checkpoint", "...” is of type torch.complex64;"),
    "whole numbers": (whole_numbers, "wrong_architecture", "holds whole numbers (torch.int8); save float weights"),
    "heads": (many_heads, "wrong_architecture", "151 names end in head.weight, at most 100 may"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_checkpoints(name, team):
    change, code, text = TENSORS[name]
    change(team)
    found = failure(team, name in ("6 GB", "very deep"))
    assert found.code == (code or found.code) and text in found.text, found
    assert not (team / "executed").exists()


# ------------------------------------------------------------------------------------------------------- the other files


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        (b"{" * 1000, "missing_file", "(JSONDecodeError)"),
        (b'{"a": ' + b"[" * 60_000, "missing_file", "(RecursionError)"),
        (b'{"a": ' + b"[" * 30 + b"]" * 30 + b"}", "missing_file", "expected an object of options"),
        (b'{"a": ' + b"9" * 5000 + b"}", "missing_file", "(ValueError)"),
        (b"\xff\xfe{}", "missing_file", "(UnicodeDecodeError)"),
        (b"[]", "missing_file", "expected an object of options"),
        (b"{}" + b" " * (64 << 10), "stored_images", "at most 65536 are allowed"),
    ],
)
def test_options(content, code, text, team):
    (team / CONFIG).write_bytes(content)
    with pytest.raises(Failed) as raised:
        read_config(team)
    assert raised.value.code == code and text in raised.value.text


def test_code_is_not_parsed(team):
    """A megabyte of lines took a reader of code 1.5 GB; here it is bytes, of which there may be so many."""
    (team / "numbers.py").write_bytes(b"0\n" * (1 << 19))
    (team / "wrong.py").write_bytes(b"def (\xff")
    (team.parent / "work").mkdir()
    assert take_in(team, team.parent / "work", [], TINY).config["method"] == "custom"
    with (team / "large.py").open("wb") as file:
        file.truncate(65 << 20)
    (team.parent / "work" / "submission").rename(team.parent / "before")
    with pytest.raises(Failed, match="unsafe_archive: 70 MB of Python files, at most 67 are allowed"):
        intake._read(team, team.parent / "work", [], TINY, get_challenge())


# ---------------------------------------------------------------------------------------------- how the process may end


@pytest.mark.parametrize(
    ("ends", "expected", "text"),
    [
        ("kill -XCPU $$", "time_limit", "CPU time"),
        ("sleep 60", "time_limit", "not read within 0.5 s"),
        ("kill -KILL $$", "memory_limit", "want of memory"),
        ("kill -SEGV $$", "bad_checkpoint", "SIGSEGV"),
        ("kill -ABRT $$", "bad_checkpoint", "SIGABRT"),
        ("kill -TERM $$", RuntimeError, "from outside (SIGTERM)"),
        ("echo OSError: No space left >&2; exit 1", RuntimeError, "“OSError: No space left”"),
        ("exit 143", RuntimeError, "“no word”"),
    ],
)
def test_ends_of_the_process(ends, expected, text, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nulimit -c 0\n{'exec ' if ends.startswith('sleep') else ''}{ends}\n")
    program.chmod(0o755)
    monkeypatch.setattr(intake, "PYTHON", str(program))
    monkeypatch.setattr(bounds, "READ_SECONDS", 0.5 if ends.startswith("sleep") else 60.0)
    with pytest.raises(Failed if isinstance(expected, str) else expected) as raised:
        take_in(tmp_path, tmp_path, [])
    assert text in str(raised.value) and getattr(raised.value, "code", expected) == expected


def test_bounds_of_the_process():
    """More CPU time than allowed ends it by the signal that says so."""
    code = "from src.submission import bounds\nfrom src.submission.sandbox import intake\n"
    code += "bounds.READ_CPU_SECONDS = 1\nintake._bound_resources()\nwhile True: pass"
    assert Python(intake.PROJECT_ROOT, "-c", code).ended()[0] == -signal.SIGXCPU


def test_what_is_not_there_is_no_failure_of_the_team(tmp_path, capsys):
    """Nor is a work folder that cannot be written to."""
    with pytest.raises(UserError, match="absent or cannot be read"):
        take_in(tmp_path / "absent.zip", tmp_path, [])
    (tmp_path / "a.zip").write_bytes(zipped())
    (tmp_path / "work").touch()
    with pytest.raises(RuntimeError, match="NotADirectoryError"):
        take_in(tmp_path / "a.zip", tmp_path / "work", [])
    assert "Traceback" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ the words


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("network.head.weight", "“network.head.weight”"),
        ("a” and so it is fine: “b", '“a" and so it is fine: "b”'),
        ("a\n\tb\u202e", "“a b?”"),
        ("x" * 61, f"“{'x' * 57}...”"),
        (Path("팀/a"), "“팀/a”"),
        ("", "“”"),
    ],
)
def test_quoted(given, shown):
    assert quoted(given) == shown


def test_a_hash_has_an_end(tmp_path, monkeypatch):
    """Of very many files or bytes the first count; what is under the bounds counts to the last bit."""
    folder = tmp_path / "team"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.py").write_bytes(bytes([number]) * 10)
    monkeypatch.setattr(bounds, "ARCHIVE_FILES", 2)
    few = content_hash(folder)
    (folder / "5.py").write_bytes(b"other")
    assert content_hash(folder) == few
    (folder / "3.py").write_bytes(b"other")
    assert content_hash(folder) != few
    monkeypatch.setattr(bounds, "HASHED_BYTES", 15)
    few = content_hash(folder)
    (folder / "1.py").write_bytes(bytes([1]) * 5 + b"other")
    assert content_hash(folder) == few
    assert len(content_hash(tmp_path / "absent.zip")) == 64
