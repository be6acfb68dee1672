"""Being told to stop while training: a signal from a scheduler, Colab or a lost terminal, and Ctrl-C."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from src.common.cli import ENDING


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Inside the block, the signals that end a script and the first Ctrl-C are noted. Gives a function: which came, 0 for none?

    A second Ctrl-C interrupts as usual. What is ignored, as nohup ignores SIGHUP, stays so. Outside the main thread nothing is
    changed.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {}
    with contextlib.suppress(ValueError):  # not the main thread: no signals arrive here
        for number in (signal.SIGINT, *ENDING):
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, note)
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
