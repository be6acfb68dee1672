"""Scripts whose output is closed, breaks, or cannot write a letter; and progress where nobody looks."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.common import progress
from src.common.files import PROJECT_ROOT
from src.common.progress import Progress, tracked

SCRIPT = """
import os, sys
from src.common.cli import run_script

def main():
    print("begun", flush=True)
    sys.stdin.readline()
    with open(sys.argv[1], "w") as work:  # where a standard stream is closed this file may not get its number
        for step in range(3):
            print(f"가 {step}")
            print(f"나 {step}", file=sys.stderr)
            os.system("echo by a child >&2")
        work.write("done")
        sys.stdout.flush()

run_script(main)
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "PYTHONUTF8": "1"}
HEARD = "".join(f"나 {step}\nby a child\n" for step in range(3))


@pytest.fixture
def script(tmp_path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    return tmp_path / "script.py"


def shell(words: str, script: Path, **environment: str) -> tuple[int, str, str]:
    """SCRIPT in a shell, `words` behind it: the script's own exit code, and what was written to stdout and stderr."""
    work = script.with_name("work")
    command = f"'{sys.executable}' '{script}' '{work}' {words}; exit ${{PIPESTATUS[0]}}"
    environment = {**ENVIRONMENT, **environment}
    done = subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, env=environment)
    assert work.read_text() == "done"
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("| true", 0, HEARD),
        ("2>&1 | true", 0, ""),
        ("2>&-", 0, ""),
        (">&-", 0, HEARD),
        (">&- 2>&-", 0, ""),
        ("> /dev/full", 1, f"{HEARD}error: cannot write to standard output: No space left on device\n"),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_breaks_ends_no_work(words, code, said, unbuffered, script):
    assert shell(words, script, PYTHONUNBUFFERED=unbuffered)[::2] == (code, said)


@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}])
def test_letters_that_the_output_lacks_are_escaped(settings, script):
    code, written, _ = shell("", script, PYTHONUTF8="0", **settings)
    assert code == 0 and written.splitlines()[1] == r"\uac00 0"


def test_a_terminal_that_is_lost_ends_no_work(script, tmp_path):
    ours, theirs = os.openpty()
    words = [sys.executable, script, tmp_path / "work"]
    process = subprocess.Popen(words, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert os.read(ours, 100).startswith(b"begun")
    os.close(ours)
    process.communicate(b"\n")
    assert process.returncode == 0 and (tmp_path / "work").read_text() == "done"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal_and_elsewhere_a_line_a_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    with Progress(2920, "training", "step", done=40) as shown:
        shown.note("loss 0.5")
        for _ in range(2880):
            now[0] += 1 / 16
            shown.update()
    assert file.getvalue().splitlines() == [
        "training: 1,000 of 2,920 steps, 16 a second, 02:00 left, loss 0.5",
        "training: 1,960 of 2,920 steps, 16 a second, 01:00 left, loss 0.5",
        "training: 2,920 of 2,920 steps, 16 a second, 00:00 left, loss 0.5",
    ]
    monkeypatch.setattr(sys, "stderr", file := Terminal())
    with Progress(4, "training", "step") as shown:
        shown.update(4)
    assert "100%" in file.getvalue() and "\r" in file.getvalue()
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(tracked("abc", None, "letter")) == list(tracked("abc", "letters", "letter")) == ["a", "b", "c"]
