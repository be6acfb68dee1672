"""Options that check themselves, and the command-line flags that are made of them.

An option is a field of a dataclass that extends Options: `steps: int = option(8, "what it is", minimum=1)`. Its type follows
from its default. Beside its help it may have

    minimum     the least value        above   a bound that the value must exceed
    maximum     the largest value      below   a bound that the value must stay under
    choices     all valid values       empty   whether a list may have no items as a flag
    metavar     of the flag, in --help
    words       the words of the flag -> fields and their values, where a flag sets several
    of          the field whose flag sets this one

For a list they hold for each of its items. What relates two options is checked by `validate`.
"""

import argparse
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from src.common.cli import number

Kind = TypeVar("Kind", bound="Options")

BOUNDS: dict[str, Callable[[float, float], bool]] = {
    "minimum": lambda value, bound: value >= bound,
    "above": lambda value, bound: value > bound,
    "maximum": lambda value, bound: value <= bound,
    "below": lambda value, bound: value < bound,
}


def option(default: Any, help: str, **metadata: Any) -> Any:
    """A field of Options: its default, a text for --help, and the bounds or choices of its values."""
    value = {"default_factory": lambda: list(default)} if isinstance(default, list) else {"default": default}
    return field(**value, metadata={"help": help, **metadata})


@dataclass
class Options:
    """The base of all options. Raises ValueError for a value that its field's metadata does not allow.

    A dataclass may extend several of them, in any order, as long as no two declare the same option.
    """

    @classmethod
    def of(cls: type[Kind], values: Mapping[str, Any]) -> Kind:
        """The options of these values by name, which may be among others."""
        return cls(**{item.name: values[item.name] for item in fields(cls)})

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            for one in value if isinstance(value, (list, tuple)) else [value]:
                check_option(item, one)
        self.validate()

    def validate(self) -> None:
        """Raise ValueError where options do not fit each other. Every override calls super().validate() first."""


@dataclass(frozen=True)
class Preset:
    """A named set of train.py's flags.

    about: what it is for, in a few words.
    """

    about: str
    flags: Mapping[str, Any]


def check_option(item: Field, value: Any) -> None:
    """Raise ValueError, naming the option, where its metadata does not allow the value."""
    choices = item.metadata.get("choices")
    if choices and value not in choices:
        raise ValueError(f"unknown {item.name} {value!r}; expected one of {', '.join(choices)}")
    bounds = {name: item.metadata[name] for name in BOUNDS if name in item.metadata}
    if not all(BOUNDS[name](value, bound) for name, bound in bounds.items()):
        raise ValueError(f"expected {item.name} {describe_bounds(bounds)}, got {value:g}")


def describe_bounds(bounds: dict[str, float]) -> str:
    """Bounds in words: "of at least 0", "above 0", "from 0 to 1", "from 0 to below 1", "above -1 and below 1"."""
    words = {
        "minimum": "from {:g}" if {"maximum", "below"} & bounds.keys() else "of at least {:g}",
        "above": "above {:g}",
        "maximum": "to {:g}" if "minimum" in bounds else "of at most {:g}",
        "below": "to below {:g}" if "minimum" in bounds else "below {:g}",
    }
    parts = [text.format(bounds[name]) for name, text in words.items() if name in bounds]
    return (" " if "minimum" in bounds else " and ").join(parts)


def default_of(item: Field) -> Any:
    """The default of a dataclass's field."""
    return item.default if item.default is not MISSING else item.default_factory()


class Words(argparse.Action):
    """A flag whose words set several fields: const reads them, and raises ValueError where it cannot."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        try:
            vars(namespace).update(self.const(values))
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise argparse.ArgumentError(self, str(error)) from error


def in_turn(**kinds: Callable[[str], Any]) -> Callable[[Sequence[str]], dict[str, Any]]:
    """For `words`: the first word is the first of these fields, the second the second; those that are left out stay."""

    def read(words: Sequence[str]) -> dict[str, Any]:
        if len(words) > len(kinds):
            raise ValueError(f"expected at most {len(kinds)} values, got {' '.join(words)}")
        return {name: kind(word) for (name, kind), word in zip(kinds.items(), words, strict=False)}

    return read


def add_option_flags(group: argparse._ActionsContainer, items: Iterable[Field], hidden: Collection[str] = ()) -> None:
    """Add a flag for each option: by its type, default, help, choices and bounds. Those that are hidden are not in --help."""
    for item in items:
        default, words = default_of(item), item.metadata.get("words")
        if "of" in item.metadata:
            group.set_defaults(**{item.name: default})
            continue
        help_text = argparse.SUPPRESS if item.name in hidden else item.metadata.get("help", " ")
        flag: dict[str, Any] = {"default": default, "help": help_text}
        minimum = max(item.metadata.get("minimum", -math.inf), item.metadata.get("above", -math.inf))
        if words:
            flag.update(action=Words, const=words, nargs="+")
        elif isinstance(default, bool):
            flag["action"] = argparse.BooleanOptionalAction
        elif isinstance(default, (int, float)):
            flag["type"] = number(type(default), minimum)
        elif isinstance(default, (list, tuple)):
            flag.update(default=list(default), type=number(type(default[0]) if default else int, minimum))
            flag["nargs"] = "*" if item.metadata.get("empty") else "+"
        else:
            flag["choices"] = item.metadata.get("choices")
        if "metavar" in item.metadata:
            flag["metavar"] = item.metadata["metavar"]
        group.add_argument(f"--{item.name}", **flag)
