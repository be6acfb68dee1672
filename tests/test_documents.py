"""What the documents tell a reader to do works as they tell it."""

import importlib
import importlib.util
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.common.files import PROJECT_ROOT, cache_dir


def test_write_a_method(tmp_path):
    """The document's method, put into the folder of methods: found, passed by the battery, trained and sampled."""
    text = (PROJECT_ROOT / "docs" / "write_a_method.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (check,) = re.findall(r"Then `python (-m pytest [^`]*)`", text)
    for name in ("src", "tests"):
        shutil.copytree(PROJECT_ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("custom_model.py", "train.py", "dataset.py", "sampling.py", "pyproject.toml"):
        shutil.copy(PROJECT_ROOT / name, tmp_path / name)
    (tmp_path / "src" / "methods" / "x_prediction.py").write_text(code)

    def python(arguments: str) -> str:
        env = {**os.environ, "CHALLENGE_CACHE": str(cache_dir())}  # toon faces that are drawn already
        result = subprocess.run([sys.executable, *arguments.split()], cwd=tmp_path, capture_output=True, text=True, env=env)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    assert re.search(r"1\d passed", python(check))
    small = "--ch 8 --ch_mult 1 2 --attn 1 --num_res_blocks 1 --data toon --device cpu"
    python(
        f"train.py --method x_prediction {small} --num_iterations 2 --batch_size 4 --save_dir r --run_name x --time_scale 500"
    )
    python("sampling.py --ckpt_path r/x/last.ckpt --save_dir s --num_samples 2 --device cpu")
    assert len(list((tmp_path / "s").glob("nfe=[124]/*.png"))) == 6


COMMAND = re.compile(r"(?:python|torchrun [^`\n]*?) ((?:-m [\w.]+|\w+\.py)(?: +(?!python)[^`\n#|]*)?)")
FIRST = [PROJECT_ROOT / "README.md", PROJECT_ROOT / "checkpoints" / "README.md"]
DOCUMENTS = [*FIRST, *sorted((PROJECT_ROOT / "docs").rglob("*.md"))]


def commands() -> list[str]:
    """Every command of ours that the documents print, as far as it is named in full, each once."""
    found = {}
    for path in DOCUMENTS:
        text = path.read_text().replace("`python\n", "`python ").replace("python -m\n", "python -m ")
        found |= {" ".join(match.split()): path.name for match in COMMAND.findall(text)}
    return sorted(found)


def test_the_documents_print_commands():
    assert len(commands()) > 30


@pytest.mark.parametrize("command", commands())
def test_a_printed_command_is_understood(command, monkeypatch, capsys):
    """Its module is there, and takes every flag that is printed; what it does is the matter of its own tests."""
    words = command.split()
    name, rest = (words[1], words[2:]) if words[0] == "-m" else (words[0].removesuffix(".py"), words[1:])
    if name in ("pytest", "venv", "pip", "pytorch_fid"):
        return
    if importlib.util.find_spec(f"{name}.__main__" if (PROJECT_ROOT / Path(*name.split("."))).is_dir() else name) is None:
        pytest.fail(f"there is no {name}")
    module = importlib.import_module(f"{name}.__main__" if (PROJECT_ROOT / Path(*name.split("."))).is_dir() else name)
    if name == "src.submission.manifest":
        return  # without flags
    chosen = [word for flag in ("--method", "--challenge") for word in after(rest, flag)]
    monkeypatch.setattr(sys, "argv", [name, *rest[: name == "src.submission"], *chosen, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0
    told = capsys.readouterr().out
    for flag in (word for word in rest if word.startswith("--")):
        assert re.search(rf"{flag}\b", told), f"{name} does not know {flag}"


def after(words: list[str], flag: str) -> list[str]:
    """A flag and its value, where they are among the words and the value is no placeholder."""
    if flag not in words[:-1] or words[words.index(flag) + 1].isupper():
        return []
    value = words[words.index(flag) + 1]
    return [] if value == "colours" else [flag, value]  # the challenge that the document itself writes


def test_what_has_moved_is_where_the_document_says():
    rows = (PROJECT_ROOT / "docs" / "moved.md").read_text().splitlines()
    columns = [row.split("|")[1:3] for row in rows if row.startswith("| ") and "`" in row]
    names = [name for columns_of_row in columns for name in re.findall(r"`((?:src|recipes)[\w.]*)", columns_of_row[1])]
    assert len(columns) > 15 and len(names) > 20
    for name in names:
        pkgutil.resolve_name(name)
    still = re.findall(r"`([\w.]+)`", columns[0][0])
    assert [name for name in still if pkgutil.resolve_name(name)] == ["dataset.load_split", "dataset.split_ids"]
