"""What is due after a training step, and when a run stops before its last one: a signal came, or the deadline is near."""

import contextlib
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from src.common.cli import ENDING
from src.common.processes import Processes
from src.training.config import TrainingConfig

EARLY_PREVIEWS = frozenset(2**k for k in range(5, 14))  # steps 32, 64 ... 8192: early phases, of which a write-up shows images
QUESTION_SECONDS = 5.0  # between which several processes ask whether one of them is to stop


def due_after(step: int, config: TrainingConfig, milestones: Collection[int], evaluates: bool) -> set[str]:
    """What is due after step number `step` (from 1), beside the next one.

    "log": a line of the log. "evaluate": the scores on the development split. "milestone": a checkpoint under its own name.
    "save": checkpoint, resume.pt and curves. "preview": a sheet of samples. After the last step, when everything is saved and
    evaluated anyway, the log and a milestone alone are due. evaluates: whether the run evaluates at all.
    """
    last = step == config.num_iterations
    saves = step % config.save_interval == 0
    due = {
        "log": last or step % config.log_interval == 0,
        "milestone": step in milestones,
        "evaluate": evaluates and not last and config.eval_interval > 0 and step % config.eval_interval == 0,
        "save": saves and not last,
        "preview": (saves or (step in EARLY_PREVIEWS and step < config.save_interval)) and not last,
    }
    return {name for name, is_due in due.items() if is_due}


class Clock:
    """Measures what a run does beside its steps: "log", "save", "preview", "evaluate". seconds: name -> of each time."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - start)

    def longest(self, name: str) -> float:
        """The longest that this took so far, in seconds; 0 where it was never done."""
        return max(self.seconds[name], default=0.0)


@dataclass
class Deadline:
    """When a run has to stop.

    Args:
        at: the time.monotonic() by which all must be saved.
        first_save: the seconds that a save is taken to last while none was measured.
        stopped: the signal that came, 0 for none; see stop_signals.
    """

    at: float
    first_save: float
    clock: Clock
    processes: Processes
    device: torch.device
    stopped: Callable[[], int] = lambda: 0

    def begin(self, step: int) -> None:
        """Begin with this step."""
        self.next_question, self.last_question = step, (step - 1, time.perf_counter())

    def leaves(self, seconds: float) -> bool:
        """Whether so many seconds and a last save end in time."""
        return time.monotonic() + seconds + (self.clock.longest("save") or self.first_save) <= self.at

    def stops(self, step: int, due: set[str], seconds: float) -> bool:
        """Whether a signal came, or the next step, of so many seconds, and what is due would not end in time.

        Several processes ask each other every few seconds, and where something is due.
        """
        several = self.processes.size > 1
        if several and step < self.next_question and not due:
            return False
        tasks = {"save" if name == "milestone" else name for name in due - {"log"}}
        seconds += sum(map(self.clock.longest, sorted(tasks)))
        stop = bool(self.stopped()) or not self.leaves(seconds)
        return self._any_stops(step, stop) if several else stop

    def _any_stops(self, step: int, stop: bool) -> bool:
        """Whether any process must stop; and settle, for all of them alike, after which step they ask again."""
        (before, then), now = self.last_question, time.perf_counter()
        sums = torch.tensor([float(stop), (now - then) / (step - before)], dtype=torch.float64, device=self.device)
        self.processes.sum([sums])
        stops, pace = sums.tolist()
        self.next_question = step + max(1, int(QUESTION_SECONDS * self.processes.size / pace))
        self.last_question = step, now
        return stops > 0


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
