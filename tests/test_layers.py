"""Which room imports which: the table of the design, read from the source; and that each fact stands in one place."""

import ast
import functools
import json
import sys
from pathlib import Path

import pytest
from torch import nn

from src.challenges import CHALLENGES
from src.common.files import PROJECT_ROOT
from tests.shipped import is_own

SRC = PROJECT_ROOT / "src"
SCRIPTS = {"train", "sampling", "measure_fid", "dataset"}
CONTRACT = {"src.base_model", "src.network", "src.module", "src.utils"}
COMMON = {"src.common", "src.runs"}
SHARED = {room: {f"src.{room}.shared"} for room in ("methods", "challenges")}
DISTILLATION = ("prior", "lora", "checkpoint", "stable_diffusion", "loss", "sds", "vsd", "sdi", "optimize", "outputs")
EVERYTHING = {"src", "custom_model"}
WINGS = {  # beside the core, which is all else
    "staff": {"src.submission"},
    "extras": {"src.page", "src.writeup", "src.score_distillation", "recipes", "benchmarks"},
}
RULES = {  # files -> what of ours they may import; a room's __main__.py is a command, and free as train.py is
    "src/utils.py": {"src.common"},  # the six helpers: scripts use them whatever a student makes of this file
    "src/base_model.py": set(),
    "src/module.py": set(),
    "src/network.py": {"src.module"},
    "src/runs/": {"src.common", "src.runs"},
    "src/common/": CONTRACT | {"src.common"},
    "src/methods/": CONTRACT | {"src.common"} | SHARED["methods"],
    "src/challenges/": CONTRACT | {"src.common", "src.datasets", "src.evaluation"} | SHARED["challenges"],
    "src/datasets/": CONTRACT | {"src.common", "src.datasets"},
    "src/training/": CONTRACT | COMMON | {"src.methods.shared.method", "src.training"},
    "src/evaluation/": COMMON | {"src.evaluation"},
    "src/score_distillation/": CONTRACT
    | COMMON
    | {"src.challenges", "src.score_distillation", "src.evaluation", "custom_model"},
    **{f"src/score_distillation/{name}.py": CONTRACT | COMMON | {"src.score_distillation"} for name in DISTILLATION},
    "src/writeup/": COMMON | {"src.challenges", "src.evaluation", "src.writeup", "custom_model"},
    "src/page/": COMMON | {"src.challenges", "src.page", "src.evaluation", "custom_model"},
    "src/submission/": COMMON | {"src.challenges", "src.evaluation", "src.submission", "custom_model"},
    "sampling.py": COMMON | {"src.challenges", "custom_model"},
    "measure_fid.py": COMMON | {"src.challenges", "src.evaluation"},
    "dataset.py": COMMON | {"src.challenges"},
    "custom_model.py": EVERYTHING,
    "train.py": EVERYTHING,
    "recipes/": EVERYTHING | {"recipes"},
    "benchmarks/": EVERYTHING | {"benchmarks", "recipes"},
}
OUTSIDE = {  # packages each room may import; all others are free within requirements.txt
    "src/utils.py": {"torch"},
    "src/runs/": set(),
    "src/common/": {"torch", "numpy", "PIL", "matplotlib", "tqdm"},
    "src/base_model.py": {"torch"},
    "src/module.py": {"torch"},
    "src/network.py": {"torch"},
    "src/methods/": {"torch", "numpy"},
    "src/challenges/": {"torch", "torchvision", "numpy", "PIL", "kagglehub"},
    "src/page/": {"torch", "numpy", "PIL", "streamlit"},
}
OURS = {"src", "custom_model", "recipes", "benchmarks", *SCRIPTS}
FILES = [
    *PROJECT_ROOT.glob("*.py"),
    *(path for room in ("src", "recipes", "benchmarks") for path in (PROJECT_ROOT / room).rglob("*.py") if not is_own(path)),
]


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Everything that a file's code is made of."""
    return list(ast.walk(ast.parse(path.read_text())))


def imports(path: Path) -> set[str]:
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:  # without one it stays in its package
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if is_module(f"{node.module}.{alias.name}")}
    return names


def is_module(name: str) -> bool:
    path = PROJECT_ROOT / Path(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def ours(path: Path) -> set[str]:
    """The modules of ours that a file imports; a package only where nothing in it is named."""
    names = {name for name in imports(path) if name.split(".")[0] in OURS}
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


def files(rule: str) -> list[Path]:
    path = PROJECT_ROOT / rule
    return sorted(file for file in path.rglob("*.py") if not is_own(file)) if path.is_dir() else [path]


def allowed(name: str, permitted: set[str]) -> bool:
    return any(name == entry or name.startswith(entry + ".") for entry in permitted)


@pytest.mark.parametrize("rule", RULES)
def test_rooms(rule):
    for path in files(rule):
        if path.name == "__init__.py" and path.parent.name in SHARED:
            continue  # a registry: it imports all of its folder
        permitted = EVERYTHING if path.name == "__main__.py" else RULES[rule]
        if rule == "src/challenges/" and path.parent != SRC / "challenges":  # a challenge's own folder
            permitted = permitted | {f"src.challenges.{path.parent.name}"}
        wrong = {name for name in ours(path) if not allowed(name, permitted)}
        assert not wrong, f"{path.relative_to(PROJECT_ROOT)} imports {wrong}"


def wing_of(name: str) -> str:
    """core, staff or extras, of a module or of a file's path with dots."""
    return next((wing for wing, rooms in WINGS.items() if allowed(name, rooms)), "core")


def test_wings():
    """Core imports neither of the others, and these do not import each other: they start each other's commands instead."""
    for path in FILES:
        wing = wing_of(".".join(path.relative_to(PROJECT_ROOT).with_suffix("").parts))
        wrong = {name for name in ours(path) if wing_of(name) not in (wing, "core")}
        assert not wrong, f"{path.relative_to(PROJECT_ROOT)}, of the {wing} wing, imports {wrong}"


def test_no_file_begins_with_an_underscore():
    for path in FILES:
        assert path.name[0] != "_" or path.stem in ("__init__", "__main__"), path


def test_every_file_has_a_rule():
    ruled = {path for rule in RULES for path in files(rule)}
    assert {path for path in FILES if path not in ruled} <= {SRC / "__init__.py"}


def test_root_scripts_are_imported_by_nobody():
    """So that the course's own can be laid over them: custom_model.py alone is imported, and by tests."""
    for path in FILES:
        assert not {name.split(".")[0] for name in imports(path)} & SCRIPTS, path


def test_no_import_cycle():
    graph = {}
    for path in FILES:
        name = ".".join(path.relative_to(PROJECT_ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = {other for other in ours(path) if other != name}
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        for other in sorted(graph.get(name, ())) if name not in done else ():
            visit(other, [*way, name])
        done.add(name)

    for name in sorted(graph):
        visit(name, [])


@pytest.mark.parametrize("rule", OUTSIDE)
def test_packages(rule):
    for path in files(rule):
        roots = {name.split(".")[0] for name in imports(path)} - OURS - set(sys.stdlib_module_names)
        assert roots <= OUTSIDE[rule], f"{path.relative_to(PROJECT_ROOT)} imports {roots - OUTSIDE[rule]}"


def test_matplotlib_is_imported_in_one_place_and_has_no_backend():
    for path in FILES:
        names = {name for name in imports(path) if name.split(".")[0] == "matplotlib"}
        assert not names or path == SRC / "common" / "figures.py", f"{path}: take it from src.common.figures"
        assert not {name for name in names if "pyplot" in name}, path
        calls = [node.func for node in nodes(path) if isinstance(node, ast.Call)]
        assert "matplotlib.use" not in map(ast.unparse, calls), path


# What the course's own files have, which may replace ours at any time; of a network the names of its weights are fixed, too.
COURSE_NAMES = {
    "src.base_model": {"BaseScheduler", "BaseGenerativeModel"},
    "src.network": {"UNet"},
    "src.module": {"Swish", "DownSample", "UpSample", "AttnBlock", "ResBlock", "TimeEmbedding"},
    "src.utils": {"seed_everything", "get_current_time", "expand_t", "tensor_to_pil_image", "save_model", "load_model"},
}
WEIGHTS = json.loads((PROJECT_ROOT / "tests/data/unet_state_dict.json").read_text())["conditional"]
COURSE_ATTRIBUTES = {name.split(".")[0] for name in WEIGHTS} | set(dir(nn.Module())) | {"initialize"}
OWN_NETWORKS = {
    SRC / "challenges" / f"{name}.py" for name in ("shared/unet", "labelled", "mnist/__init__", "toy2d/__init__")
} | {
    *(SRC / "evaluation").rglob("*.py")  # whose networks give features
}


def beyond_the_course(code: str, own_network: bool = False) -> list[str]:
    """What a file uses of the contract's files, and of the network, that the course's own lack: a line each.

    own_network: it knows that its network is the kit's own. An attribute that is asked for with a default may be absent.
    """
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module in COURSE_NAMES:
            found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in COURSE_NAMES[node.module]]
        elif isinstance(node, ast.ImportFrom) and node.module == "src":
            found += [f"src.{alias.name}" for alias in node.names if f"src.{alias.name}" in COURSE_NAMES]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in COURSE_NAMES]
        elif isinstance(node, ast.Attribute) and not own_network:
            owner = getattr(node.value, "attr", getattr(node.value, "id", ""))
            if owner == "network" and node.attr not in COURSE_ATTRIBUTES | {"__module__", "__qualname__"}:
                found.append(f"network.{node.attr}")
    return found


def test_of_the_contract_no_more_is_used_than_the_course_has():
    for path in FILES:
        if path not in {SRC / "network.py", SRC / "module.py"}:  # these two are replaced together
            assert not beyond_the_course(path.read_text(), path in OWN_NETWORKS), path


@pytest.mark.parametrize(
    "line",
    [
        "from src.network import UNet, per_image",
        "from src.module import init_layer",
        "from src import network",
        "import src.utils",
        "size = model.network.scale",
        "network.embed(t)",
    ],
)
def test_a_planted_name_of_ours_is_found(line):
    assert len(beyond_the_course(line)) == 1


def test_no_method_is_named_outside_its_room():
    names = {path.stem for path in (SRC / "methods").glob("[!_]*.py") if not is_own(path)}
    for path in [PROJECT_ROOT / "train.py", PROJECT_ROOT / "sampling.py", *files("src/training/")]:
        text = path.read_text()
        words = set(text.replace('"', " ").replace("'", " ").replace(".", " ").split())
        assert not (names - {"add"}) & words, path  # "add" is a word of English too
        constants = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
        assert not names & constants, path


# ------------------------------------------------------------------------------------------- one fact in one place


LITERALS = {  # what stands in one room alone -> that room
    (3, 64, 64): "src/challenges/",
    (1, 2, 4): "src/challenges/",
    293.4: "src/challenges/",
    90.3: "src/challenges/",
    18.2: "src/challenges/",
    "last.ckpt": "src/runs/folder.py",
    "best_model.pt": "src/runs/folder.py",
    "resume.pt": "src/runs/folder.py",
    "log.jsonl": "src/runs/folder.py",
    "training_config.json": "src/runs/folder.py",
    "training_curves.png": "src/runs/folder.py",
    "metrics.jsonl": "src/runs/folder.py",
    "nfe=": "src/runs/folder.py",
    "model_config.json": "src/common/checkpoints.py",
}


@functools.cache
def literals(path: Path) -> set:
    """The constants of a file, and its tuples and lists of constants, as tuples."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Constant):
            found.add(node.value)
        elif isinstance(node, (ast.Tuple, ast.List)) and all(isinstance(item, ast.Constant) for item in node.elts):
            found.add(tuple(item.value for item in node.elts))
    return found


@pytest.mark.parametrize("literal", LITERALS, ids=str)
def test_a_fact_stands_in_one_place(literal):
    home = PROJECT_ROOT / LITERALS[literal]
    holders = [path for path in FILES if literal in literals(path)]
    assert any(path == home or home in path.parents for path in holders), "the test looks for what is nowhere"
    strangers = [str(path.relative_to(PROJECT_ROOT)) for path in holders if path != home and home not in path.parents]
    assert not strangers, f"{literal!r} stands in {strangers} too, not in {LITERALS[literal]} alone"


def test_nothing_asks_which_challenge_it_is():
    """No comparison with a challenge's name outside of the challenges; dataset.py has the course's own names."""
    names = set(CHALLENGES.names())
    for path in FILES:
        if (SRC / "challenges") in path.parents or path.name == "dataset.py":
            continue
        for node in nodes(path):
            if isinstance(node, ast.Compare):
                constants = {item.value for item in ast.walk(node) if isinstance(item, ast.Constant)}
                assert not names & constants, f"{path}, line {node.lineno}"
