"""Submissions as students of the course write them: on its base classes and network alone, not on this kit's Method.

A model is one file of `models/`, or a folder of files, that stands as its author would hand it in. `course/` has stand-ins of
the course's own scripts, of the same signatures. Both are not in the kit's style, on purpose.
"""

import contextlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

from src.common.files import PROJECT_ROOT
from src.network import UNet
from tests.helpers import TINY, fill_by_rule

MODELS, COURSE = (Path(__file__).parent / name for name in ("models", "course"))
FOREIGN = sorted(path.stem for path in MODELS.iterdir() if path.stem != "__pycache__")
STRANGERS = {"model_type": "consistency", "scheduler_type": "karras", "use_ema": True, "ema_decay": 0.9999, "wandb": None}
CONTRACT = ("src/base_model.py", "src/network.py", "src/module.py")


def lay_out(folder: Path, name: str, network: dict = TINY) -> Path:
    """A complete hand-in of this model in `folder`, with a network of these options and fixed weights in its checkpoint."""
    own = MODELS / name if (MODELS / name).is_dir() else MODELS / f"{name}.py"
    shutil.copytree(COURSE, folder)
    for file in CONTRACT:
        shutil.copy(PROJECT_ROOT / file, folder / file)
    if own.is_dir():
        shutil.copytree(own, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(own, folder / "custom_model.py")
    config = {**{key: list(value) if isinstance(value, tuple) else value for key, value in network.items()}, **STRANGERS}
    with imported(folder) as custom_model:
        model = custom_model.create_custom_model(device="cpu", **config)
        for module in model.modules():
            if isinstance(module, UNet):
                fill_by_rule(module)
        (folder / "checkpoints").mkdir()
        sys.modules["src.utils"].save_model(model, folder / "checkpoints/best_model.pt", config)
    return folder


@contextlib.contextmanager
def imported(folder: Path) -> Iterator[ModuleType]:
    """The custom_model of a hand-in, imported into this process as its scripts import it, and forgotten afterwards.

    Its src/utils.py stands in for ours; of a module beside it no copy of ours is taken. Weights that a package would download
    are those of the checkpoint, and nothing is compiled.
    """
    before, path, download = dict(sys.modules), list(sys.path), torch.hub.load_state_dict_from_url
    own = {path.stem for path in folder.iterdir()} - {"src"}
    for name in list(sys.modules):
        if name.split(".")[0] in own or name == "src.utils":
            del sys.modules[name]
    sys.path.insert(0, str(folder))
    torch.hub.load_state_dict_from_url = lambda *_, **__: None
    load = torch.nn.Module.load_state_dict
    torch.nn.Module.load_state_dict = lambda self, state, *more, **words: state and load(self, state, *more, **words)
    try:
        spec = importlib.util.spec_from_file_location("src.utils", folder / "src/utils.py")
        sys.modules["src.utils"] = utils = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(utils)
        with torch.compiler.set_stance("force_eager"):
            yield importlib.import_module("custom_model")
    finally:
        torch.hub.load_state_dict_from_url, torch.nn.Module.load_state_dict = download, load
        sys.path[:] = path
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in own:
                del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if name.split(".")[0] in own | {"src"}})


def read_config(folder: Path) -> dict:
    return json.loads((folder / "checkpoints/model_config.json").read_text())
