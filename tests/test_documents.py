"""What the documents tell a reader to do works as they tell it."""

import importlib
import importlib.util
import pkgutil
import re
import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from src.common.files import PROJECT_ROOT, cache_dir
from tests.documents import files_in, steps_in
from tests.processes import python

SMALLEST = {  # what makes a command of the documents the smallest of its kind
    "train.py": "--ch 8 --ch_mult 1 2 --attn 1 --num_res_blocks 1 --num_iterations 2 --batch_size 4 --device cpu",
    "sampling.py": "--num_samples 2 --device cpu",
    "-m recipes.toy2d": "--sets moons --seeds 1 --iterations 2 --jobs 1",
}
OF_THE_KIT = {  # tests that ask something of the kit's methods alone -> the name of one of them
    "tests/test_train.py": "at_a_glance",
    "tests/writeup/test_writeup.py": "has_a_text_and_papers",
    "tests/recipes/test_method_pictures.py": "the_documents_show",
    "tests/test_layers.py": "layers",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the kit with the methods of write_a_method.md and their tests in it; runs `python ARGUMENTS` there."""
    folder = tmp_path_factory.mktemp("kit")
    for name in ("src", "tests", "recipes", "benchmarks", "docs"):
        shutil.copytree(PROJECT_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*PROJECT_ROOT.glob("*.*"), *PROJECT_ROOT.glob("data/*.txt")):
        if path.is_file():
            (folder / path.relative_to(PROJECT_ROOT)).parent.mkdir(exist_ok=True)
            shutil.copy(path, folder / path.relative_to(PROJECT_ROOT))
    for name, code in files_in("write_a_method.md").items():
        assert not (folder / name).exists()
        (folder / name).write_text(code)

    def run(arguments: str) -> str:
        return python(folder, *shlex.split(arguments), CHALLENGE_CACHE=cache_dir())  # toon faces that are drawn already

    run.folder = folder
    return run


@pytest.mark.slow
def test_write_a_method(copy):
    """From the first line to the last: the methods are found and pass their tests, one is trained, sampled and compared."""
    documents = {path: path.read_bytes() for path in (copy.folder / "docs").rglob("*.md")}
    steps, said = steps_in("write_a_method.md"), {}
    assert len(steps) == 6
    for step in steps:
        words = next((words for script, words in SMALLEST.items() if step.startswith(script)), "-p no:cacheprovider")
        said[step] = copy(f"{step} {words}")
    tests = [written for step, written in said.items() if "pytest" in step]
    assert [int(re.search(r"(\d+) passed", written)[1]) for written in tests] == [18, 21], tests
    assert len(list((copy.folder / "samples").glob("nfe=[124]/*.png"))) == 6
    text = (copy.folder / "results" / "toy2d" / "toy2d.md").read_text()
    rows = ("x_prediction", "x_prediction,time_distribution=logit_normal,time_scale=10.0")
    assert all(f"| moons | {row} | " in text for row in rows), text
    assert {path: path.read_bytes() for path in (copy.folder / "docs").rglob("*.md")} == documents


@pytest.mark.slow
def test_nothing_else_is_asked_of_a_method_of_ones_own(copy):
    """With the document's methods in place, the tests that look at the kit's own pass; its row in README.md changes that."""
    names = " or ".join(OF_THE_KIT.values())
    said = copy(f"-m pytest -p no:cacheprovider {' '.join(OF_THE_KIT)} -k '{names}'")
    assert re.search(r"\d\d passed", said) and "failed" not in said
    readme = copy.folder / "README.md"
    text = readme.read_text()
    readme.write_text(text.replace("| `ddpm` |", "| `halving` | none |\n| `ddpm` |"))
    with pytest.raises(AssertionError, match="halving"):
        copy("-m pytest -p no:cacheprovider tests/recipes/test_method_pictures.py -k halving")
    readme.write_text(text)


COMMAND = re.compile(r"(?:python|torchrun [^`\n]*?) ((?:-m [\w.]+|\w+\.py)(?: +(?!python)[^`\n#|]*)?)")
FIRST = [PROJECT_ROOT / "README.md", PROJECT_ROOT / "checkpoints" / "README.md"]
WRITTEN = {Path(name).stem for name in (*files_in("write_a_method.md"), *files_in("write_a_challenge.md"))}
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
    if name in ("pytest", "venv", "pip", "pytorch_fid", *WRITTEN):
        return
    if importlib.util.find_spec(f"{name}.__main__" if (PROJECT_ROOT / Path(*name.split("."))).is_dir() else name) is None:
        pytest.fail(f"there is no {name}")
    module = importlib.import_module(f"{name}.__main__" if (PROJECT_ROOT / Path(*name.split("."))).is_dir() else name)
    if name == "train":  # a document's own challenge has classes, as labelled has
        rest = ["labelled" if before == "--challenge" and word in WRITTEN else word for before, word in pairwise(["", *rest])]
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
    return [] if value in WRITTEN else [flag, value]


def test_what_has_moved_is_where_the_document_says():
    rows = (PROJECT_ROOT / "docs" / "moved.md").read_text().splitlines()
    columns = [row.split("|")[1:3] for row in rows if row.startswith("| ") and "`" in row]
    names = [name for columns_of_row in columns for name in re.findall(r"`((?:src|recipes)[\w.]*)", columns_of_row[1])]
    assert len(columns) > 15 and len(names) > 20
    for name in names:
        pkgutil.resolve_name(name)
    still = re.findall(r"`([\w.]+)`", columns[0][0])
    assert [name for name in still if pkgutil.resolve_name(name)] == ["dataset.load_split", "dataset.split_ids"]
