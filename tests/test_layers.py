"""Which room imports which: the table of the design, read from the source."""

import ast
import sys
from pathlib import Path

import pytest

from src.common.files import PROJECT_ROOT

CONTRACT = {"src.base_model", "src.network", "src.module", "src.utils"}
COMMON = {"src.common"}
RULES = {  # files -> what of ours they may import
    "src/utils.py": COMMON,  # four of the six helpers are there: scripts use them whatever a student makes of this file
    "src/common/": COMMON,
    "src/base_model.py": set(),
    "src/module.py": set(),
    "src/network.py": {"src.module"},
    "src/efficientnet.py": set(),
    "src/methods/": CONTRACT
    | COMMON
    | {"src.efficientnet"}
    | {f"src.methods.{path.stem}" for path in (PROJECT_ROOT / "src" / "methods").glob("_[!_]*.py")},
    "src/challenges/": CONTRACT | COMMON | {"src.challenges._base", "src.challenges._points"},
    "src/datasets/": CONTRACT | COMMON | {"src.datasets._toon_base", "src.datasets._toon_wear"},
    "src/datasets/pairs.py": CONTRACT
    | COMMON  # a script that samples, as sampling.py is
    | {"custom_model", "src.methods._base", "src.training.checkpoint", "src.training.distributed"},
    "src/training/": CONTRACT | COMMON | {"src.methods._base", "src.training"},
    "src/evaluation/": {"src.common", "src.efficientnet", "src.evaluation"},
    "src/evaluation/__main__.py": {"src.common", "src.evaluation", "dataset"},  # a script, as measure_fid.py is
    "src/report/": {"custom_model", "src.methods", "src.report", "src.common"},  # a method's own text; else files on disk
    "src/submission/": {"custom_model", "src.evaluation", "src.report", "src.submission", "src.common", "src.network"},
    "src/submission/grade.py": {"src.submission", "src.common", "dataset"},  # a script, as measure_fid.py is
    "sampling.py": {"custom_model", "src.common", "src.training.distributed"},
}
OUTSIDE = {  # packages each room may import; all others are free within requirements.txt
    "src/utils.py": {"torch"},
    "src/common/": {"torch", "numpy", "PIL"},
    "src/base_model.py": {"torch"},
    "src/module.py": {"torch"},
    "src/network.py": {"torch"},
    "src/efficientnet.py": {"torch"},
    "src/methods/": {"torch", "numpy", "tqdm"},
}
OURS = {"src", "custom_model", "dataset", "train", "sampling", "measure_fid"}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def files(rule: str) -> list[Path]:
    path = PROJECT_ROOT / rule
    if not path.is_dir():
        return [path]
    own = {PROJECT_ROOT / name for name in RULES if name != rule}
    return sorted(set(path.glob("*.py")) - own)


def allowed(name: str, permitted: set[str]) -> bool:
    return any(name == entry or name.startswith(entry + ".") for entry in permitted)


@pytest.mark.parametrize("rule", RULES)
def test_rooms(rule):
    for path in files(rule):
        if path.name == "__init__.py":
            continue
        ours = {name for name in imports(path) if name.split(".")[0] in OURS}
        wrong = {name for name in ours if not allowed(name, RULES[rule])}
        assert not wrong, f"{path.relative_to(PROJECT_ROOT)} imports {wrong}"


@pytest.mark.parametrize("rule", OUTSIDE)
def test_packages(rule):
    for path in files(rule):
        roots = {name.split(".")[0] for name in imports(path)} - OURS - set(sys.stdlib_module_names)
        assert roots <= OUTSIDE[rule], f"{path.relative_to(PROJECT_ROOT)} imports {roots - OUTSIDE[rule]}"


def test_methods_use_only_the_contract_of_utils():
    """A course may put its own src/utils.py in place: what a submission needs of it is the contract alone."""
    contract = {"seed_everything", "get_current_time", "expand_t", "tensor_to_pil_image", "save_model", "load_model"}
    for path in [*files("src/methods/"), PROJECT_ROOT / "custom_model.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "src.utils":
                assert {alias.name for alias in node.names} <= contract, path


def test_no_method_is_named_outside_its_room():
    names = {path.stem for path in (PROJECT_ROOT / "src" / "methods").glob("[!_]*.py")}
    for path in [PROJECT_ROOT / "train.py", PROJECT_ROOT / "sampling.py", *files("src/training/")]:
        text = path.read_text()
        words = set(text.replace('"', " ").replace("'", " ").replace(".", " ").split())
        assert not (names - {"add"}) & words, path  # "add" is a word of English too
        constants = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
        assert not names & constants, path
