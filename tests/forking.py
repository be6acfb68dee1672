"""A server off which Python processes are forked that need not import torch: python -I tests/forking.py SOCKET

It imports what every process of the kit would, and nothing of the kit. Started by tests/processes.py; it ends when its standard
input does, which is a pipe from whoever started it.
"""

import contextlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

PRELOADED = ("numpy", "torch", "torch._dynamo", "torchvision", "matplotlib.backends.backend_agg", "scipy.linalg", "PIL.Image")


def serve(address: str) -> list | None:
    """Fork a process for everyone who asks. Returns what was asked for in such a process, and None in the server at its end.

    Asked for is [folder, words, environment], with three files: the process's input, output and errors. Answered are its number
    at once and how it ended (as waitpid says) at its end; where the asker goes away first, it is killed.
    """
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    askers: dict[int, socket.socket] = {}  # by the process that was forked for them

    def pass_on_ends(*_) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with askers.pop(ended[0]) as asker, contextlib.suppress(OSError):
                    if asker in ready.get_map():
                        ready.unregister(asker)
                    asker.sendall(ended[1].to_bytes(4, "big"))

    signal.signal(signal.SIGCHLD, pass_on_ends)
    with selectors.DefaultSelector() as ready:
        for source in (sys.stdin.fileno(), listening):
            ready.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj == sys.stdin.fileno():
                    return None
                with ends_held_back():
                    if key.fileobj is not listening:  # it has gone, for it has no more to say
                        for pid in [pid for pid, asker in askers.items() if asker is key.fileobj]:
                            ready.unregister(key.fileobj)
                            os.kill(pid, signal.SIGKILL)
                        continue
                    asker, _ = listening.accept()
                    length, files, *_ = socket.recv_fds(asker, 4, 3)
                    if len(files) < 3:  # killed before it has asked
                        asker.close()
                        continue
                    asked = json.loads(asker.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
                    if not (pid := os.fork()):
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        for descriptor, file in enumerate(files):
                            os.dup2(file, descriptor)
                            os.close(file)
                        for each in (listening, asker, *askers.values()):
                            each.close()
                        return asked
                    askers[pid] = asker
                    ready.register(asker, selectors.EVENT_READ)
                    asker.sendall(pid.to_bytes(4, "big"))
                    for file in files:
                        os.close(file)


@contextlib.contextmanager
def ends_held_back() -> Iterator[None]:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def run(folder: str, words: list[str], environment: dict[str, str]) -> None:
    """What `python WORDS...` does in this folder; words: a script, `-m MODULE`, `-c CODE` or `-`, with arguments."""
    import random

    import numpy
    import torch

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    numpy.random.seed()
    if "OMP_NUM_THREADS" in environment:  # torch has read it before
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    installed = [*environment.get("PYTHONPATH", "").split(os.pathsep), *sys.path]
    installed = [path for path in installed if path]
    match words:
        case ["-c", code, *arguments]:
            sys.path, sys.argv = ["", *installed], ["-c", *arguments]
            exec(code, {"__name__": "__main__"})
        case ["-m", module, *arguments]:
            sys.path, sys.argv = [folder, *installed], ["-m", *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-", *arguments]:
            sys.path, sys.argv = ["", *installed], ["-", *arguments]
            exec(sys.stdin.read(), {"__name__": "__main__"})
        case [script, *arguments] if not script.startswith("-"):
            sys.path, sys.argv = [str(Path(script).resolve().parent), *installed], [script, *arguments]
            runpy.run_path(script, run_name="__main__")
        case _:
            os.execve(sys.executable, [sys.executable, *words], environment)


if __name__ == "__main__":
    for name in PRELOADED:
        __import__(name)
    if (command := serve(sys.argv[1])) is not None:
        run(*command)
