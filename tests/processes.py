"""Python in processes of its own that need not import torch: they are forked off a server that has done it."""

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from pathlib import Path

import torch

PROJECT_ROOT = Path(__file__).resolve().parents[1]
OURS = {"src", "tests", "recipes", "benchmarks", *(path.stem for path in PROJECT_ROOT.glob("*.py"))}
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["torch", "torchvision", "matplotlib.backends.backend_agg", "scipy.linalg"])


class Python:
    """A process that does what `python WORDS...` does in `folder`: a script, `-m MODULE` or `-c CODE`, with arguments.

    Nothing of the project is imported in it before, and only what stands in the folder is found.
    """

    def __init__(self, folder: str | Path, *words: object, **environment: object):
        self.files = [tempfile.NamedTemporaryFile() for _ in range(2)]  # noqa: SIM115 (deleted with the object)
        environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
        arguments = (str(folder), [str(word) for word in words], environment, [file.name for file in self.files])
        self.process = FORKED.Process(target=_run, args=arguments)
        self.process.start()

    def ended(self) -> tuple[int, str, str]:
        """Wait for its end: the exit code, and what it wrote to stdout and stderr."""
        self.process.join()
        written, errors = (Path(file.name).read_text() for file in self.files)
        return self.process.exitcode, written, errors


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


def _run(folder: str, words: list[str], environment: dict[str, str], files: list[str]) -> None:
    for descriptor, name in zip((1, 2), files, strict=True):
        with open(name, "wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    if "OMP_NUM_THREADS" in environment:  # torch has read it before
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    os.chdir(folder)
    elsewhere = [path for path in sys.path if Path(path).resolve() != PROJECT_ROOT]
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:  # another test's server may have imported it
        del sys.modules[name]
    match words:
        case ["-c", code, *arguments]:
            sys.path, sys.argv = ["", *elsewhere], ["-c", *arguments]
            exec(code, {"__name__": "__main__"})
        case ["-m", module, *arguments]:
            sys.path, sys.argv = [folder, *elsewhere], ["-m", *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case [script, *arguments]:
            sys.path, sys.argv = [folder, *elsewhere], [script, *arguments]
            runpy.run_path(script, run_name="__main__")
