"""A process that runs a stranger's Python code: what it sees, what it may do, and what it may take.

On Linux with bubblewrap it gets its own user, process, network and file namespaces: a read-only view of the Python
installation and of the submission's Python files, a scratch folder of limited size in memory, and nothing else. Without
bubblewrap the worker makes namespaces itself (`worker.confine`): no network, everything read-only, the files and folders named
in `hidden` empty. In both, a seccomp filter refuses new processes, sockets, signals and the calls that lead out of a sandbox.
The process starts no other, so that its CPU time, memory and threads, read in /proc from outside, are the submission's.
"""

import json
import os
import platform
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from src.common.cli import UserError
from src.submission.failures import Failed, one_line

WORKER = Path(__file__).with_name("worker.py")
POLL_SECONDS = 0.1
ENDING_SECONDS = 5  # from the end of the pipe to that of the process
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/alternatives")
SCRATCH = {"bubblewrap": "/tmp", "namespaces": "/dev/shm"}  # kinds of sandbox and the one folder that can be written to


@dataclass(frozen=True)
class Limits:
    """What the confined process may take; bytes and seconds.

    memory: data of the process, enforced by the kernel, and its resident size. disk: the scratch folder and any one file.
    setup_seconds: CPU and waiting time until the model is built, the import of torch included. sample_seconds: waiting time
    that each request for images may take beside the network's own, sample_seconds_an_image of it more for each image;
    run_seconds: the same for all requests to one process. cpu_seconds: CPU time of all sampling beside the network's own,
    cpu_share of a network call more for each image.
    """

    memory: int = 6 << 30
    disk: int = 64 << 20
    threads: int = 64
    setup_seconds: float = 120.0
    sample_seconds: float = 60.0
    sample_seconds_an_image: float = 0.1
    run_seconds: float = 900.0
    cpu_seconds: float = 10.0
    cpu_share: float = 0.1


@dataclass(frozen=True)
class Usage:
    """CPU seconds used so far, bytes resident now, threads and processes now."""

    cpu_seconds: float
    memory: int
    threads: int
    processes: int


def find_kind(asked: str | None = None) -> str:
    """The kind of sandbox that this machine gives, or the one asked for, tried out.

    Raises UserError where there is none: a stranger's code is not run without one.
    """
    if sys.platform != "linux":
        raise UserError(f"no sandbox on {sys.platform}: grading runs strangers' code and needs Linux")
    tried = []
    for kind in [asked] if asked else SCRATCH:
        if kind == "bubblewrap" and not shutil.which("bwrap"):
            tried.append("bubblewrap is not installed")
            continue
        command = _try_namespaces()
        if kind == "bubblewrap":
            command = [*_bubblewrap([], Path("/usr"), "/dev/null", 1 << 20), "true"]
        done = subprocess.run(command, capture_output=True, text=True, env={}, cwd="/")
        if done.returncode == 0:
            return kind
        tried.append(f"{kind}: {one_line(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'refused')}")
    raise UserError(f"no sandbox on this machine ({'; '.join(tried)}): install bubblewrap, or allow user namespaces")


class Confined:
    """The worker in its sandbox, started on the Python files of `code`, and the pipe to it.

    Raises Failed from `send` and `receive` when the process ends, breaks a limit, or waits longer than `allow` said. Use as a
    context manager: on leaving, the process is killed with all it may have started.
    """

    def __init__(self, code: Path, limits: Limits, kind: str, hidden: tuple[Path, ...] = ()):
        self.limits, self.kind = limits, kind
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by kill)
        self.seccomp = seccomp_program()
        self._cpu_limit, self._cpu_code, self.wait_left = limits.setup_seconds, "time_limit", limits.setup_seconds
        view = code.resolve() if kind == "namespaces" else Path("/submission")
        libraries = library_folders()
        config = {
            "code": str(view),
            "scratch": SCRATCH[kind],
            "readable": [*map(str, libraries), *SYSTEM_FOLDERS, "/etc", "/proc", "/sys", "/dev", SCRATCH[kind]],
            "limits": asdict(limits),
            "confine": kind == "namespaces",
            "hidden": _outermost(hidden) if kind == "namespaces" else [],
            "seccomp": self.seccomp.hex(),
        }
        command = [sys.executable, "-I", "-B", str(WORKER), json.dumps(config)]
        extra_fds: tuple[int, ...] = ()
        if kind == "bubblewrap":
            filter_fd = _readable_fd(self.seccomp)
            extra_fds = (filter_fd,)
            command[3] = "/grader/worker.py"
            prefix = _bubblewrap(libraries, code.resolve(), str(WORKER), limits.disk)
            command = [*prefix, "--seccomp", str(filter_fd), "--", *command]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=_environment(SCRATCH[kind]),
            cwd=view if kind == "namespaces" else "/",
            pass_fds=extra_fds,
            start_new_session=True,
            bufsize=0,
        )
        for fd in extra_fds:
            os.close(fd)
        for stream in (self.process.stdin, self.process.stdout):
            os.set_blocking(stream.fileno(), False)

    def __enter__(self) -> "Confined":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def allow(self, cpu_seconds: float, wait_seconds: float, cpu_code: str) -> None:
        """From now on: so much CPU time in all, so many seconds of waiting, and the code of a failure by CPU time."""
        self._cpu_limit, self.wait_left, self._cpu_code = cpu_seconds, wait_seconds, cpu_code

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
        usage, limits = self.usage(), self.limits
        own = 3 if self.kind == "bubblewrap" else 1  # bubblewrap's two and the worker
        if usage.processes > own or usage.threads > limits.threads + own:
            raise Failed("process_limit", f"{usage.processes} processes, {usage.threads} threads (allowed: {limits.threads})")
        if usage.memory > limits.memory:
            raise Failed("memory_limit", f"{usage.memory / 1e9:.1f} GB resident (allowed: {limits.memory / 1e9:.1f})")
        if usage.cpu_seconds > self._cpu_limit:
            what = "while the model was built" if self._cpu_code == "time_limit" else "beside the network's calls"
            raise Failed(self._cpu_code, f"{usage.cpu_seconds:.1f} s of CPU time {what} (allowed: {self._cpu_limit:.1f})")
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
        """Return when the pipe is ready; look at the limits meanwhile."""
        while True:
            start = time.monotonic()
            ready = select.select([] if writing else [stream], [stream] if writing else [], [], POLL_SECONDS)
            self.wait_left -= time.monotonic() - start
            self.check()
            if ready[0] or ready[1]:
                return
            if self.wait_left < 0:
                raise Failed("time_limit", "no answer within the time allowed")

    def _ended(self) -> Failed:
        """The failure that tells how the process ended."""
        try:
            code = self.process.wait(timeout=ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            return Failed("wrong_output", "the process closed its pipe to the grader")
        self.errors.seek(max(0, self.errors.seek(0, os.SEEK_END) - 4096))
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        last = one_line(lines[-1]) if lines else "it said nothing"
        if code in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
            return Failed("time_limit", "the kernel ended the process: more CPU time than allowed")
        return Failed("crashed", f"the process ended with code {code} before its work was done: {last}")


# ------------------------------------------------------------------------------------------------- what the process sees


def library_folders() -> list[Path]:
    """Where this Python and its packages are: what the sandbox shows of the machine beside the system's libraries."""
    folders = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]}
    folders |= {Path(entry) for entry in sys.path if Path(entry).name in PACKAGE_FOLDERS}
    return sorted(path for path in folders if path.is_dir() and path != Path("/"))


def _environment(scratch: str) -> dict[str, str]:
    """The whole environment of the process: no tokens, proxies, paths or home of ours."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    # code is compiled by other processes, which the sandbox has none of: torch.compile gives what it is given
    more = {"TORCHDYNAMO_DISABLE": "1", "MPLBACKEND": "Agg", "USER": "sandbox"}  # torch asks who the user is
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": scratch, "TMPDIR": scratch, **threads, **more}


def _bubblewrap(libraries: list[Path], code: Path, worker: str, disk: int) -> list[str]:
    """The command that puts what follows it into a sandbox."""
    command = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-all",
        "--unshare-user",
        "--uid",
        "65534",
        "--gid",
        "65534",
        "--die-with-parent",
    ]
    command += ["--new-session", "--cap-drop", "ALL", "--hostname", "sandbox", "--size", str(disk), "--tmpfs", "/tmp"]
    for folder in SYSTEM_FOLDERS:
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
        else:
            command += ["--ro-bind-try", folder, folder]
    for path in libraries:
        command += ["--ro-bind", str(path), str(path)]
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    command += ["--ro-bind", str(code), "/submission", "--ro-bind", worker, "/grader/worker.py"]
    return [*command, "--chdir", "/submission", "--remount-ro", "/"]


def _outermost(paths: tuple[Path, ...]) -> list[str]:
    """Those of the paths that exist and are not below another of them."""
    found = {path.resolve() for path in paths if path.exists()}
    return sorted(str(path) for path in found if not found & set(path.parents))


def _try_namespaces() -> list[str]:
    """A command that does nothing but make the namespaces that the worker would make."""
    return [sys.executable, "-I", "-B", str(WORKER), json.dumps({"try": True})]


def _readable_fd(data: bytes) -> int:
    """A file descriptor that data (of less than a pipe's buffer) can be read from, to its end."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return reading


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


# --------------------------------------------------------------------------------------------------------- system calls

_ARCHITECTURES = {  # audit number, then system calls by name; those an architecture lacks are left out
    "x86_64": (
        0xC000003E,
        {"fork": 57, "vfork": 58, "clone": 56, "ptrace": 101, "socket": 41, "unshare": 272, "setns": 308, "mount": 165,
         "umount2": 166, "pivot_root": 155, "bpf": 321, "add_key": 248, "request_key": 249, "keyctl": 250,
         "perf_event_open": 298, "userfaultfd": 323, "process_vm_readv": 310, "process_vm_writev": 311,
         "init_module": 175, "finit_module": 313, "kexec_load": 246, "memfd_create": 319, "kill": 62, "tkill": 200,
         "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "prlimit64": 302, "shmget": 29, "mmap": 9},
    ),
    "aarch64": (
        0xC00000B7,
        {"clone": 220, "ptrace": 117, "socket": 198, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39,
         "pivot_root": 41, "bpf": 280, "add_key": 217, "request_key": 218, "keyctl": 219, "perf_event_open": 241,
         "userfaultfd": 282, "process_vm_readv": 270, "process_vm_writev": 271, "init_module": 105, "finit_module": 273,
         "kexec_load": 104, "memfd_create": 279, "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138,
         "rt_tgsigqueueinfo": 240, "prlimit64": 261, "shmget": 194, "mmap": 222},
    ),
}  # fmt: skip
_NEW_CALLS = {  # of the numbers that all architectures share
    "pidfd_send_signal": 424, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431,
    "fsmount": 432, "fspick": 433, "clone3": 435, "mount_setattr": 442,
}  # fmt: skip
_X32 = 0x40000000  # x86_64's second numbering of its calls
_CLONE_THREAD, _MAP_SHARED, _MAP_ANONYMOUS = 0x10000, 0x01, 0x20
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _REFUSE, _NO_SUCH_CALL = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026  # EPERM, ENOSYS


def seccomp_program(machine: str | None = None) -> bytes:
    """A BPF program that refuses new processes, sockets, signals, traces, mounts, namespaces and kernel facilities.

    clone is let where it makes a thread, prlimit64 where it is about the process itself, mmap but for anonymous memory that can
    be shared: that and shmget's segments do not count as data of the process. clone3, whose flags a filter cannot read, "does
    not exist": the C library then falls back to clone. Raises UserError on a processor whose call numbers are not
    known here.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise UserError(f"no list of system calls for {machine}; grading needs one of {', '.join(_ARCHITECTURES)}")
    audit, calls = _ARCHITECTURES[machine]
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _REFUSE)]
    conditions = {"clone": (_ANY_BIT, 1, 0, _CLONE_THREAD), "prlimit64": (_EQUAL, 1, 0, 0)}  # true: one line is passed over
    for name, call in {**calls, **_NEW_CALLS}.items():
        if name == "mmap":  # on the low half of the fourth argument, at byte 40
            shared = [(_LOAD, 0, 0, 40), (_ANY_BIT, 0, 2, _MAP_ANONYMOUS), (_ANY_BIT, 0, 1, _MAP_SHARED)]
            program += [(_EQUAL, 0, 5, call), *shared, (_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
            continue
        refusal = (_RETURN, 0, 0, _NO_SUCH_CALL if name == "clone3" else _REFUSE)
        if name in conditions:  # on the low half of the first argument, at byte 16
            program += [(_EQUAL, 0, 4, call), (_LOAD, 0, 0, 16), conditions[name], refusal, (_RETURN, 0, 0, _ALLOW)]
        else:
            program += [(_EQUAL, 0, 1, call), refusal]
    program += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", *line) for line in program)
