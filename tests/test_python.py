"""The kit in the staff's environment: Python 3.10, where it is here, reads every file and has what they import of Python's."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.common.files import PROJECT_ROOT

READ = """
import ast, importlib, json, sys
files, stdlib = json.load(sys.stdin)
for path in files:
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read(), path)
    own = {}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] in stdlib:
            module = importlib.import_module(node.module)
            for name in names:
                if not hasattr(module, name):
                    importlib.import_module(f"{node.module}.{name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in stdlib:
                    own[alias.asname or alias.name] = importlib.import_module(alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in own:
            assert hasattr(own[node.value.id], node.attr), f"{path}: {node.value.id}.{node.attr}"
"""


@pytest.fixture(scope="module")
def read():
    """Runs Python 3.10 over files; returns what it says, empty where all is well."""
    places = [shutil.which("python3.10"), *Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10")]
    starts = [place for place in places if place and not subprocess.run([place, "-c", ""], capture_output=True).returncode]
    if not starts:  # pyenv's name may stand for nothing
        pytest.skip("no Python 3.10 here")

    def run(files):
        given = json.dumps([list(map(str, files)), sorted(sys.stdlib_module_names)])
        return subprocess.run([starts[0], "-c", READ], input=given, capture_output=True, text=True).stderr

    return run


def test_every_file(read):
    folders = ("src", "recipes", "benchmarks")
    assert not read([*PROJECT_ROOT.glob("*.py"), *(path for name in folders for path in (PROJECT_ROOT / name).rglob("*.py"))])


@pytest.mark.parametrize("line", ["from typing import Self", "import tomllib", "import enum\nenum.StrEnum", "f'{d['a']}'"])
def test_what_came_later_is_found(read, line, tmp_path):
    (tmp_path / "later.py").write_text(line)
    assert read([tmp_path / "later.py"])
