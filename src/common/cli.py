"""What every command shares: its parser, errors a user can act on, and how a script ends."""

import argparse
import contextlib
import difflib
import itertools
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from src.common.output import lasting_output

# what ends a script beside Ctrl-C, where the system has it: a queue, a lost terminal, a queue's warning (SLURM's --signal)
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class UserError(Exception):
    """A mistake that the user can mend. Its text says what was expected, what came and what to do; no traceback is printed."""


class Parser(argparse.ArgumentParser):
    """The scripts' argument parser: flags in full only, defaults in the help, a mistake in one line and exit code 2."""

    def __init__(self, **kwargs: Any) -> None:
        self.meant = ""
        super().__init__(formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False, **kwargs)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(str(value), map(str, action.choices or ()))
            raise

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's; ~ is the home folder, and for an unknown flag the one that was probably meant is kept for error."""
        words = [with_home(word) for word in (sys.argv[1:] if args is None else args)]
        found, unknown = super().parse_known_args(words, namespace)
        self.meant = "".join(did_you_mean(word, self._option_string_actions) for word in unknown[:1] if word.startswith("--"))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            message += self.meant
        self.exit(2, f"error: {message} (see --help)\n")


def with_home(word: str) -> str:
    """A word of a command line with ~ written out where it, or its value, begins with it: shells leave --flag=~/x."""
    name, equals, value = word.partition("=")
    return f"{name}={os.path.expanduser(value)}" if equals and not name.startswith("~") else os.path.expanduser(word)


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """ "; did you mean X?", where a valid word is near; otherwise nothing."""
    near = difflib.get_close_matches(word.partition("=")[0], list(valid), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class Interrupted(KeyboardInterrupt):
    """A signal that ends a script as Ctrl-C does."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def signal_of(stop: KeyboardInterrupt) -> int:
    """The number of the signal that has interrupted."""
    return stop.number if isinstance(stop, Interrupted) else signal.SIGINT


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main: a UserError ends in one line and exit code 2, Ctrl-C in one line and exit code 130.

    The signals of ENDING end it as Ctrl-C does, so that nothing half-written is left, with 128 + their number. An output that
    is closed, or breaks, ends nothing; the exit code is 1 where a file that standard output was sent to could not be written.
    """
    with lasting_output() as refused:
        try:
            with _interrupted_by(ENDING):
                main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt as stop:
            number = signal_of(stop)
            print("\ninterrupted" if number == signal.SIGINT else f"\nended by {stop}", file=sys.stderr)
            sys.exit(128 + number)
        if error := refused():
            print(f"error: cannot write to standard output: {error.strerror}", file=sys.stderr)
            sys.exit(1)


@contextlib.contextmanager
def _interrupted_by(numbers: Iterable[int]) -> Iterator[None]:
    """Inside the block these signals raise Interrupted, but not those that are ignored, as nohup ignores SIGHUP."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise Interrupted(number)

    previous = {}
    with contextlib.suppress(ValueError):  # not the main thread: no signals arrive here
        for number in numbers:
            if signal.getsignal(number) == signal.SIG_DFL:
                previous[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def number(kind: type[int] | type[float], minimum: float = -math.inf) -> Callable[[str], int | float]:
    """An argparse type: a finite number of this kind, at least minimum."""

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= minimum):
            bound = "" if minimum == -math.inf else f" of at least {minimum:g}"
            raise argparse.ArgumentTypeError(f"expected a {'whole ' if kind is int else ''}number{bound}, got {text!r}")
        return value

    return parse


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text, each column as wide as its widest cell; the last cell of a row is as wide as it likes."""
    inner = [row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in itertools.zip_longest(*inner, fillvalue="")]
    cells = [[*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in cells)
