"""Who owns a folder, and what is left of writers that were killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from src.common import files, locks
from src.common.cli import UserError
from src.common.files import PROJECT_ROOT, remove_leftovers, write_whole
from src.common.locks import LOCK, describe_owner, owned, owner_of

OWNER = """
import sys, time
from pathlib import Path
from src.common.locks import owned
with owned(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process, which owns the folder `run`."""
    words = [sys.executable, "-c", OWNER, tmp_path / "run"]
    process = subprocess.Popen(words, cwd=PROJECT_ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"mine\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_has_one_owner_until_it_is_killed(other, tmp_path):
    folder = tmp_path / "run"
    expected = rf"run is in use by process {other.pid} on {os.uname().nodename} since .*; wait until it has ended, or end it"
    with pytest.raises(UserError, match=expected), owned(folder):
        pytest.fail("two owners")
    assert owner_of(folder)["arguments"] == [str(folder)]
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (folder / LOCK).is_file() and owner_of(folder) == {}
    with owned(folder):
        assert owner_of(folder)["pid"] == os.getpid()
        (folder / "something").touch()
    assert [path.name for path in folder.iterdir()] == ["something"]


def test_an_owned_folder_that_stays_empty_is_removed(tmp_path):
    with owned(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
        with pytest.raises(FileExistsError), owned(tmp_path / "a" / "b", new=True):
            pytest.fail("it was there before")
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} "), owned(tmp_path / "a" / "b"):
            pytest.fail("two owners")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write in .*file"), owned(tmp_path / "file"):
        pytest.fail("it is a file")


def test_without_locks_it_says_so_once_and_goes_on(tmp_path, monkeypatch, capsys):
    def refuse(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    locks._say_no_locks.cache_clear()
    for name in "ab":
        with owned(tmp_path / name):
            (tmp_path / name / "x").touch()
    assert capsys.readouterr().out.count("has no locks") == 1
    with write_whole(tmp_path / "file") as partial:
        partial.write_text("x")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "file", "x", "x"]


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_never(tmp_path):
    process = os.fork()
    if not process:
        with write_whole(tmp_path / "nfe=1", folder=True) as partial, write_whole(tmp_path / "file") as other:
            partial.mkdir()
            (partial / "0000.png").touch()
            other.touch()
            time.sleep(60)
        os._exit(1)
    try:
        while not list(tmp_path.glob(".file.*.partial")):
            time.sleep(0.01)
        (tmp_path / ".nfe=1.4711.partial").mkdir()  # as earlier releases named them
        (tmp_path / ".nfe=1.4711.partial" / "0000.png").touch()
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.glob(".*.partial"))) == 2 and not (tmp_path / ".nfe=1.4711.partial").exists()
        for _ in range(2):  # where nothing stands, and instead of what does
            with write_whole(tmp_path / "nfe=1", folder=True) as partial:
                partial.mkdir()
        assert len(list(tmp_path.glob(".nfe=1.*.partial"))) == 1, "the other's"
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    with write_whole(tmp_path / "nfe=1", folder=True) as partial:
        partial.mkdir()
    assert [path.name for path in tmp_path.glob(".*.partial")] == [path.name for path in tmp_path.glob(".file.*.partial")]
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["nfe=1"]


def test_a_folder_is_put_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "nfe=1").mkdir()
    (tmp_path / "nfe=1" / "old.png").touch()
    replace, calls = os.replace, []

    def fail_once(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fail_once)
    with pytest.raises(files.CannotWrite, match="Input/output error"), write_whole(tmp_path / "nfe=1", folder=True) as partial:
        partial.mkdir()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["nfe=1", "nfe=1/old.png"]


def test_the_owner_is_read_whatever_stands_in_the_file(tmp_path):
    with owned(tmp_path):
        (tmp_path / LOCK).write_text("half a li")
        assert owner_of(tmp_path) == {} and describe_owner(tmp_path) == "another process"
        (tmp_path / LOCK).write_text(json.dumps([1]))
        assert owner_of(tmp_path) == {}
