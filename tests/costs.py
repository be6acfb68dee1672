"""What the tests cost: pytest --costs FOLDER ..., then python -m tests.costs FOLDER prints the seconds by file and by kind.

Each worker writes one line of JSON a test: its seconds (of the wall clock), those of its fixtures, and those in what is dear.
The kinds overlap: a training in a fixture counts as both. What other processes do counts as waiting for them.
"""

import argparse
import functools
import json
import multiprocessing.process
import os
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from src.evaluation.inception import Inception
from src.submission.sandbox.broker import Broker
from src.training.loop import Trainer

KINDS = {
    "training": [(Trainer, "run")],
    "Inception": [(Inception, "forward")],
    "sandbox starts": [(Broker, "_start")],
    "sandbox calls": [(Broker, "sample"), (Broker, "record")],
    "processes": [
        (subprocess.Popen, "communicate"),
        (subprocess.Popen, "wait"),
        (multiprocessing.process.BaseProcess, "join"),
    ],
}


class Costs:
    """A plugin of pytest."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}.jsonl"
        self.file.unlink(missing_ok=True)
        self.row: dict = {}
        self.fresh()
        self.began = time.perf_counter()
        for kind, places in KINDS.items():
            for owner, name in places:
                setattr(owner, name, self.timed(kind, getattr(owner, name)))

    def fresh(self) -> None:
        self.kinds, self.counts, self.inside = Counter(), Counter(), set()

    def timed(self, kind: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            if kind in self.inside:
                return function(*args, **kwargs)
            self.inside.add(kind)
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.inside.discard(kind)
                self.kinds[kind] += time.perf_counter() - began
                self.counts[kind] += 1

        return wrapper

    def write(self, **row: object) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps({**row, "kinds": self.kinds, "counts": self.counts}) + "\n")
        self.fresh()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.write(test="(start and collection)", call=time.perf_counter() - self.began)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.row[report.when] = report.duration
        if report.when == "teardown":
            self.write(test=report.nodeid, **self.row)
            self.row = {}


def table(title: str, rows: dict[str, Counter], most: int) -> None:
    names = ["seconds", "fixtures", *KINDS]
    print(f"{title:72}" + "".join(f"{name:>16}" for name in names))
    shown = sorted(rows.items(), key=lambda item: -item[1]["seconds"])[:most]
    for title, row in [("all", sum(rows.values(), Counter())), *shown]:
        print(f"{title.removeprefix('tests/')[:71]:72}" + "".join(f"{row[name]:16.1f}" for name in names))
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what pytest --costs wrote")
    parser.add_argument("--most", type=int, default=40, help="files and tests to show, the dearest first")
    args = parser.parse_args()
    files, tests, counts = defaultdict(Counter), defaultdict(Counter), Counter()
    for file in sorted(args.folder.glob("*.jsonl")):
        for row in map(json.loads, file.read_text().splitlines()):
            fixtures = row.get("setup", 0) + row.get("teardown", 0)
            for place in (files[row["test"].partition("::")[0]], tests[row["test"]]):
                place.update({"seconds": fixtures + row.get("call", 0), "fixtures": fixtures, **row["kinds"]})
            counts.update(row["counts"])
    table("seconds by file", files, args.most)
    table("seconds by test", tests, args.most)
    print("how often: " + ", ".join(f"{kind} {count}" for kind, count in counts.items()))


if __name__ == "__main__":
    main()
