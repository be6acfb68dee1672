"""All methods at a glance: what `train.py --method list` prints."""

import sys

from src.common.cli import align
from src.methods.shared.method import METHODS, Method

HEADER = ("--method", "learns from", "classes", "guidance", "cost", "paper")


def list_methods() -> str:
    """A line for each method: its name, what it learns from, whether it takes classes and guidance, its cost, its paper."""
    rows = [
        (
            name,
            learns_from(method),
            "yes" if method.takes_labels else "-",
            "yes" if method.takes_guidance and method.takes_labels else "-",
            f"{vars(method)['cost']:g}" if "cost" in vars(method) else "-",
            "your own: custom_model.py" if name == "custom" else paper_of(method),
        )
        for name, method in METHODS.items()
    ]
    note = "cost: of a training step, over one of a rectified flow with the same network (docs/methods.md)"
    return f"{align([HEADER, *rows])}\n\n{note}"


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
