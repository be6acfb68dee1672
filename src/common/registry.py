"""A folder of plug-ins: every file of it is imported, and what it registers is known by name."""

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Generic, TypeVar

from src.common.cli import did_you_mean

Item = TypeVar("Item")


class Registry(Generic[Item]):
    """What was registered, by name. kind: the word for one of them in errors, such as "method"."""

    def __init__(self, kind: str):
        self.kind = kind
        self._items: dict[str, Item] = {}

    def add(self, name: str, item: Item) -> None:
        """Make an item known by its name. Raises ValueError if another has it; a class imported anew may come again."""
        if name in self._items:
            old, is_class = self._items[name], isinstance(item, type)
            if not (is_class and old.__qualname__ == item.__qualname__):
                both = f": {old.__qualname__} and {item.__qualname__}" if is_class else ""
                raise ValueError(f"{self.kind} {name!r} is registered twice{both}")
        self._items[name] = item

    def remove(self, name: str) -> None:
        """Forget a name, if it is known."""
        self._items.pop(name, None)

    def get(self, name: str) -> Item:
        """The item of this name. Raises ValueError naming all of them if there is none."""
        if name not in self._items:
            meant = did_you_mean(str(name), self.names())
            raise ValueError(f"unknown {self.kind} {name!r}; expected one of {', '.join(self.names())}{meant}")
        return self._items[name]

    def names(self) -> list[str]:
        return sorted(self._items)

    def items(self) -> list[tuple[str, Item]]:
        return sorted(self._items.items())


def import_all(package: str, path: Iterable[str]) -> None:
    """Import every module of a package's folder whose name does not begin with an underscore."""
    for module in pkgutil.iter_modules(path):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")
