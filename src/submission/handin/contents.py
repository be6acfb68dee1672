"""What a submission holds, and what its files import."""

import ast
import functools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from src.common.cli import UserError
from src.runs.folder import BEST

CHECKPOINT, CONFIG = f"checkpoints/{BEST}", "checkpoints/model_config.json"
CODE = ("custom_model.py", "train.py", "dataset.py")
CONTRACT = ("src/base_model.py", "src/network.py", "src/module.py")
REQUIRED = (*CODE, "requirements.txt", CHECKPOINT, CONFIG, *CONTRACT, "src/utils.py")
# parts of the kit that neither training nor sampling uses; what of them the rest imports goes along
OPTIONAL = ("src/score_distillation", "src/evaluation", "src/submission", "src/writeup", "src/page")
SCRIPTS = ("sampling.py", "measure_fid.py")  # the staff's own are put in place; they decide what else is needed
SAMPLED = ("custom_model.py", "sampling.py")  # what runs where a submission is sampled
MISSING = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}  # who catches one goes on without a package
COURSE_PACKAGES = {  # of the staff's environment: name in requirements.txt -> name in an import
    **{name: name for name in ("torch", "torchvision", "numpy", "tqdm", "matplotlib", "scipy", "lpips", "kagglehub", "dotmap")},
    **{"pillow": "PIL", "pytorch-fid": "pytorch_fid", "clean-fid": "cleanfid"},
}


class Import(NamedTuple):
    """A module that a file names. needed: whether it is not guarded by try, in a function or for type checkers."""

    module: str
    needed: bool


def source_files(root: Path) -> list[str]:
    """The files of the project at root that a submission needs beside CODE, as relative names with slashes, sorted.

    Those are all under src/ but hidden files, caches and OPTIONAL, and what they, CODE and SCRIPTS import: modules and packages
    of the student's wherever they are in the project.
    """
    paths = [path.relative_to(root) for path in (root / "src").rglob("*") if path.is_file()]
    everything = {path.as_posix() for path in paths if not any(part.startswith((".", "__pycache__")) for part in path.parts)}
    chosen = {name for name in everything if not name.startswith(OPTIONAL)}
    return sorted((chosen | closure(root, {*chosen, *CODE, *SCRIPTS})) - {*CODE, *SCRIPTS})


def closure(root: Path, names: Iterable[str], without: Iterable[str] = ()) -> set[str]:
    """These Python files of the project at root and all of it that they import, directly or not, but for those of `without`.

    Of a package whose __init__.py has code all modules and packages count, since such code may import any of them.
    """
    found, waiting = set(), [name for name in names if name.endswith(".py") and (root / name).is_file()]
    while waiting:
        name = waiting.pop()
        if name not in found and name not in without:
            found.add(name)
            waiting += [file for item in imports(root / name, root) for file in _files_of(root, item.module)]
    return found


def imports(path: Path, root: Path) -> list[Import]:
    """Every module that the file names in an import statement, wherever it stands, or in a call of import_module or __import__
    with a literal; and every `from module import name` as module.name too. Relative imports are resolved against root.

    Raises UserError where the file is not Python.
    """
    try:
        return list(_imports(path.read_bytes(), path.relative_to(root)))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a Python file that can be read ({error})") from error


def foreign_imports(root: Path, names: Iterable[str], needed_only: bool = False) -> dict[str, list[str]]:
    """Imports that the course's environment may not have: top-level module -> the files that import it.

    needed_only: only those without which a file cannot be imported.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(name for name in names if name.endswith(".py")):
        tops = {item.module.split(".")[0] for item in imports(root / name, root) if item.needed or not needed_only}
        for top in sorted(tops - {"", "src", *COURSE_PACKAGES.values()} - sys.stdlib_module_names):
            if not (root / f"{top}.py").is_file() and not (root / top).is_dir():
                found.setdefault(top, []).append(name)
    return found


def listed(foreign: dict[str, list[str]]) -> str:
    """What foreign_imports has found, in words."""
    return "; ".join(f"{module} in {', '.join(names)}" for module, names in foreign.items())


@functools.lru_cache(maxsize=1024)  # a check asks several times for the imports of each file
def _imports(source: bytes, name: Path) -> tuple[Import, ...]:
    nodes, package = _nodes(ast.parse(source, filename=str(name)), True), name.parent.parts
    return tuple(Import(module, needed) for node, needed in nodes for module in _named(node, package))


def _nodes(node: ast.AST, needed: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes below, and for each whether it runs, unguarded, when the file is imported."""
    for field, value in ast.iter_fields(node):
        below = needed
        if field == "handlers" and isinstance(node, ast.Try):  # what stands in for what is absent
            below = False
        elif field == "body":
            guarded = isinstance(node, ast.Try) and any(map(_catches, node.handlers))
            types_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            below = needed and not (guarded or types_only or inside)
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child, below
                yield from _nodes(child, below)


def _catches(handler: ast.ExceptHandler) -> bool:
    """Whether an absent package ends here."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or getattr(kind, "id", "") in MISSING for kind in kinds)


def _named(node: ast.AST, package: tuple[str, ...]) -> set[str]:
    """The modules that this node imports, in a file of this package."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else ()
        module = ".".join([*above, *([node.module] if node.module else [])])
        return {module, *(f"{module}.{alias.name}" for alias in node.names)}
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return {node.args[0].value}
    return set()


def _files_of(root: Path, module: str) -> set[str]:
    """The files of a module inside root, its packages' __init__.py included; none if it is not of this project."""
    path = Path(*module.split("."))
    if not module or path.parts[0].startswith("."):
        return set()
    found = {file.as_posix() for file in (path.with_suffix(".py"), path / "__init__.py") if (root / file).is_file()}
    for folder in [path, *path.parents]:
        start = root / folder / "__init__.py"
        if folder.parts and start.is_file() and (found or folder == path):
            found.add((folder / "__init__.py").as_posix())
            if start.stat().st_size:
                found |= {file.relative_to(root).as_posix() for file in (root / folder).glob("*.py")}
                found |= {file.relative_to(root).as_posix() for file in (root / folder).glob("*/__init__.py")}
    return found
