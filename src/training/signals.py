"""Being told to stop: SIGTERM from a scheduler or Colab, and Ctrl-C."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Inside the block, SIGTERM and the first Ctrl-C are noted instead of killing. Gives a function: which came, 0 for none?

    A second Ctrl-C interrupts as usual. Outside the main thread nothing is changed.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {}
    with contextlib.suppress(ValueError):  # not the main thread: no signals arrive here
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, note)
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
