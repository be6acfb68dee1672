"""Every challenge of the kit. A file put into this folder is found by itself; nothing else needs to know its name."""

import importlib
import pkgutil

from src.challenges._base import Challenge, Requirement, challenge_names, get_challenge, register

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Challenge", "Requirement", "challenge_names", "get_challenge", "register"]
