"""A clock on what a run does beside its steps."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator


class Clock:
    """Measures named blocks: "report", "save", "preview", "evaluate". seconds: name -> how long each took, in order."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - start)

    def longest(self, name: str) -> float:
        """The longest that a block of this name took so far, in seconds; 0 where there was none."""
        return max(self.seconds[name], default=0.0)
