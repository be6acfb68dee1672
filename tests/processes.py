"""Python in processes of its own that need not import torch: they are forked off one that has done it (tests/forking.py)."""

import atexit
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[1]
SERVER = "TESTS_FORKED_PYTHON"  # the environment variable that names the program to the workers of one run of pytest
PATIENCE = 300.0  # seconds
PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys

server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = json.dumps([os.getcwd(), sys.argv[1:], dict(os.environ)]).encode()
socket.send_fds(server, [len(asked).to_bytes(4, "big")], [0, 1, 2])
server.sendall(asked)
pid = int.from_bytes(server.recv(4, socket.MSG_WAITALL), "big")
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
code = os.waitstatus_to_exitcode(int.from_bytes(server.recv(4, socket.MSG_WAITALL), "big"))
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class Server:
    """Off which processes are forked, until this process ends; program: stands for `python`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tests_"))
        self.program, address = self.folder / "python", self.folder / "socket"
        command = [sys.executable, "-I", PROJECT_ROOT / "tests" / "forking.py", address]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.program.write_text(PROGRAM.format(python=sys.executable, address=str(address)))
        self.program.chmod(0o755)
        atexit.register(self.close)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.folder)


def serve_workers() -> None:
    """Start the server that all workers of this run of pytest share."""
    os.environ[SERVER] = str(Server().program)


@functools.cache
def forked_python() -> str:
    """A program that is to be started as `python` is, with a script, `-m MODULE`, `-c CODE` or `-`, and needs no time for it.

    Nothing of the project is imported in its processes before, and only what stands in their folder is found.
    """
    program = Path(os.environ.get(SERVER) or Server().program)
    end = time.monotonic() + PATIENCE
    while not program.with_name("socket").exists():
        assert time.monotonic() < end, "tests/forking.py does not start"
        time.sleep(0.05)
    return str(program)


class Python:
    """A process that does what `python WORDS...` does in `folder`."""

    def __init__(self, folder: str | Path, *words: object, **environment: object):
        environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
        command = [forked_python(), *map(str, words)]
        outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, text=True, **outputs)

    def ended(self) -> tuple[int, str, str]:
        """Wait for its end: the exit code, and what it wrote to stdout and stderr."""
        written, errors = self.process.communicate()
        return self.process.returncode, written, errors


def python(folder: str | Path, *words: object, **environment: object) -> str:
    """What `python WORDS...` writes to stdout in this folder; it must end well."""
    code, written, errors = Python(folder, *words, **environment).ended()
    assert code == 0, written + errors
    return written


def several_pythons(count: int, folder: str | Path, *words: object) -> None:
    """`python WORDS...` in this folder in so many processes, as torchrun starts them; all must end well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": probe.getsockname()[1], "WORLD_SIZE": count}
    started = [Python(folder, *words, RANK=rank, LOCAL_RANK=rank, OMP_NUM_THREADS=1, **address) for rank in range(count)]
    ends = [process.ended() for process in started]
    assert all(code == 0 for code, *_ in ends), ends
