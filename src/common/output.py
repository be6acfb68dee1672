"""Standard output and error that a script never fails by: a closed pipe, a lost terminal or a strange letter ends no work."""

import contextlib
import io
import os
import select
import sys
from collections.abc import Callable, Iterator


class _Losable(io.FileIO):
    """A descriptor that is written to for as long as it can be; from then on what is written goes nowhere."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.refused: OSError | None = None
        self.is_terminal = self.isatty()

    def write(self, data: bytes | memoryview) -> int:
        try:
            while (count := super().write(data)) is None:  # full, and another program has made it non-blocking
                select.select([], [self], [])
            return count
        except OSError as error:
            if not (self.is_terminal or isinstance(error, BrokenPipeError)):  # there, who would read it has gone
                self.refused = error
            _send_nowhere(self.fileno())
            return len(data)


def _send_nowhere(descriptor: int) -> None:
    """Let what is written to this descriptor, by whatever library or child process, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


@contextlib.contextmanager
def lasting_output() -> Iterator[Callable[[], OSError | None]]:
    """Inside the block to write to sys.stdout and sys.stderr raises nothing, and lines are written when they end.

    What cannot be written any more goes nowhere, and letters that the encoding lacks are written as \\u escapes. A stream that
    was closed from the start gets its descriptor back, so that no file that is opened later is written to instead. Streams of
    another program, such as a notebook's, are left alone, and so is a console of Windows, which has no descriptor.

    Gives a function: why a file that standard output was sent to could not be written, if it could not.
    """
    files: dict[str, _Losable] = {}
    previous = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    for descriptor, (name, stream) in enumerate(previous.items(), start=1):
        if stream is None:
            try:
                os.fstat(descriptor)
            except OSError:
                _send_nowhere(descriptor)
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for the rest of the process)
        elif stream is getattr(sys, f"__{name}__") and isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):
            stream.flush()
            files[name] = _Losable(stream.fileno())
            buffer = io.BufferedWriter(files[name])
            setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", line_buffering=True))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield lambda: files["stdout"].refused if "stdout" in files else None
    finally:
        for name, stream in previous.items():
            getattr(sys, name).flush()
            setattr(sys, name, stream)
