"""What a submission holds, and what its files import."""

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

from src.common.cli import UserError

CHECKPOINT, CONFIG = "checkpoints/best_model.pt", "checkpoints/model_config.json"
CODE = ("custom_model.py", "train.py", "dataset.py")
REQUIRED = (
    *CODE,
    "requirements.txt",
    CHECKPOINT,
    CONFIG,
    "src/base_model.py",
    "src/network.py",
    "src/module.py",
    "src/utils.py",
)
# parts of the kit that neither training nor sampling uses; what of them the rest imports goes along
OPTIONAL = ("src/challenges", "src/distillation", "src/evaluation", "src/submission", "src/report", "src/demo")
SCRIPTS = ("sampling.py", "measure_fid.py")  # the staff's own are put in place; they decide what else is needed
COURSE_PACKAGES = {  # of the staff's environment: name in requirements.txt -> name in an import
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "pillow": "PIL",
    "tqdm": "tqdm",
    "matplotlib": "matplotlib",
    "scipy": "scipy",
    "pytorch-fid": "pytorch_fid",
    "clean-fid": "cleanfid",
    "lpips": "lpips",
    "kagglehub": "kagglehub",
    "dotmap": "dotmap",
}


def source_files(root: Path) -> list[str]:
    """The files under root's src/ that a submission needs, as relative names with slashes, sorted.

    Those are all but hidden files, caches and the parts of the kit that only staff and reports use (OPTIONAL).
    """
    everything = sorted(
        path.relative_to(root).as_posix()
        for path in (root / "src").rglob("*")
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in path.relative_to(root).parts)
    )
    chosen = [name for name in everything if not name.startswith(OPTIONAL)]
    waiting = [*chosen, *(name for name in (*CODE, *SCRIPTS) if (root / name).is_file())]
    while waiting:
        found = {file for module in local_imports(root, waiting.pop()) for file in _files_of(root, module)}
        new = sorted(found - set(chosen))
        chosen += new
        waiting += new
    return sorted(chosen)


def local_imports(root: Path, name: str) -> set[str]:
    """The modules of this project that a Python file imports, with dots: {"src.utils", "src.methods._base"}."""
    if not name.endswith(".py"):
        return set()
    return {module for module in imported_modules(root / name, root) if _files_of(root, module)}


def imported_modules(path: Path, root: Path) -> set[str]:
    """Every module that the file names in an import, wherever the statement stands, and every `from module import name` as
    module.name too. Relative imports are resolved against root.

    Raises UserError where the file is not Python.
    """
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a Python file that can be read ({error})") from error
    package = path.relative_to(root).parent.parts
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def foreign_imports(root: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """Imports that the course's environment may not have: top-level module -> the files that import it."""
    found: dict[str, list[str]] = {}
    for name in names:
        if not name.endswith(".py"):
            continue
        tops = {module.split(".")[0] for module in imported_modules(root / name, root)}
        for top in sorted(tops - {"", "src", *COURSE_PACKAGES.values()} - sys.stdlib_module_names):
            if not (root / f"{top}.py").is_file() and not (root / top).is_dir():
                found.setdefault(top, []).append(name)
    return found


def _files_of(root: Path, module: str) -> set[str]:
    """The files of a module inside root, its packages' __init__.py included; none if it is not of this project."""
    path = Path(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if module.startswith("src.") and (root / file).is_file():
            packages = [parent / "__init__.py" for parent in file.parents if parent.parts]
            return {file.as_posix(), *(init.as_posix() for init in packages if (root / init).is_file())}
    return set()
