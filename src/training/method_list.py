"""All methods at a glance: what `train.py --list_methods` prints."""

import re
import sys

from src.common.cli import align
from src.common.files import PROJECT_ROOT
from src.methods.shared.method import METHODS, Method

DOCUMENT = PROJECT_ROOT / "docs" / "methods.md"
HEADER = ("--method", "learns from", "classes", "guidance", "cost", "paper")


def list_methods() -> str:
    """A line for each method: its name, what it learns from, whether it takes classes and guidance, its cost, its paper."""
    costs = read_costs()
    rows = [
        (
            name,
            learns_from(method),
            "yes" if method.takes_labels else "-",
            "yes" if method.takes_guidance and method.takes_labels else "-",
            costs.get(name, "-"),
            "your own: custom_model.py" if name == "custom" else paper_of(method),
        )
        for name, method in METHODS.items()
    ]
    return (
        align([HEADER, *rows])
        + "\n\ncost: of a training step, over one of a rectified flow with the same network (docs/methods.md)"
    )


def learns_from(method: type[Method]) -> str:
    """Images, pairs of noise and image, or a trained model, in a few words."""
    if method.needs_pairs:
        return "pairs"
    if method.needs_teacher:
        return "a teacher"
    return "images, or a teacher" if method.takes_teacher else "images"


def paper_of(method: type[Method]) -> str:
    """The first line of the method's file, which names its paper."""
    return (sys.modules[method.__module__].__doc__ or "").partition("\n")[0]


def read_costs() -> dict[str, str]:
    """Method -> the first cost that its section of docs/methods.md names; none where that file is absent."""
    text = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.is_file() else ""
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    found = {
        section.partition("\n")[0].strip(): re.search(r"^- Cost ([\d.]+\d|\d)", section, re.MULTILINE) for section in sections
    }
    return {name: match[1] for name, match in found.items() if match}
