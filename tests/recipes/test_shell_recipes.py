"""What all shell recipes have in common: their help, and one line about flags that cannot be followed."""

import subprocess

import pytest

from src.common.files import PROJECT_ROOT


@pytest.mark.parametrize("path", sorted((PROJECT_ROOT / "recipes").glob("*.sh")), ids=lambda path: path.stem)
def test_help_and_bad_flags(path):
    shown = subprocess.run([path, "--help"], capture_output=True, text=True)
    head = path.read_text().split("\nset ")[0].splitlines()[1:]
    assert shown.returncode == 0
    assert shown.stdout.splitlines() == [line.removeprefix("#").removeprefix(" ") for line in head]
    for flags, words in ((["--fast"], "error: unknown flag --fast; see --help"), (["--out"], "error: --out expects a value")):
        bad = subprocess.run([path, *flags], capture_output=True, text=True)
        assert bad.returncode == 2 and bad.stderr.startswith(words) and bad.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("guidance", [], "--data_root: name a folder"),
        ("simpsons_single_gpu", ["--budget", "soon"], "expected minutes or hours"),
    ],
)
def test_what_they_ask_for(name, flags, words):
    done = subprocess.run([PROJECT_ROOT / "recipes" / f"{name}.sh", *flags], capture_output=True, text=True)
    assert done.returncode == 2 and words in done.stderr
