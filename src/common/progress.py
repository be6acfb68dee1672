"""How far a long work is: a bar on a terminal, and where nobody looks a plain line now and then."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

SECONDS = 60.0  # between two lines
Item = TypeVar("Item")


class Progress:
    """Shows on standard error how much is done: a bar on a terminal or in a notebook, elsewhere a line at most every minute.

    A context manager. total: how many units there are; title: None shows nothing; unit: its name, such as "image"; done: units
    that were there before, which do not count for the time that is left.
    """

    def __init__(self, total: int, title: str | None, unit: str, done: int = 0):
        self.total, self.title, self.unit = total, title, unit
        self.before = self.done = done
        self.words = ""
        self.start = self.last_line = time.monotonic()
        stream = sys.stderr
        bar = title is not None and stream and (stream.isatty() or type(stream).__module__.startswith("ipykernel"))
        self.bar = tqdm(total=total, desc=title, unit=unit, initial=done, smoothing=0.05) if bar else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *args: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items in turn, each of which is one unit done."""
        with self:
            for item in items:
                yield item
                self.update()

    def update(self, count: int = 1) -> None:
        """So many units more are done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif self.title is not None and time.monotonic() - self.last_line >= SECONDS:
            self.last_line = time.monotonic()
            print(self.line(), file=sys.stderr)

    def note(self, words: str) -> None:
        """Show these words behind the numbers from now on."""
        self.words = words
        if self.bar is not None:
            self.bar.set_postfix_str(words, refresh=False)

    def line(self) -> str:
        """The plain line: what is done, how fast it went, the time that is left (hours:minutes:seconds), and the note."""
        seconds = time.monotonic() - self.start
        rate = (self.done - self.before) / seconds if seconds else 0.0
        left = f", {tqdm.format_interval((self.total - self.done) / rate)} left" if rate else ""
        words = f", {self.words}" if self.words else ""
        return f"{self.title}: {self.done:,} of {self.total:,} {self.unit}s, {rate:.3g} a second{left}{words}"


def tracked(items: Sequence[Item], title: str | None, unit: str) -> Iterator[Item]:
    """The items in turn, with their Progress."""
    return Progress(len(items), title, unit).each(items)
