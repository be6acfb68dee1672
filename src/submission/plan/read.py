"""Read a plan strictly: it comes from a stranger, and nothing of it is believed."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from .. import bounds
from . import operations
from .operations import ALLOWED, OWN, BadPlan, Plan, Step
from .rules import check

PRECISIONS = [{"dtype": name} for name in ("float32", "float16", "bfloat16")]
CALL_OPTIONS = {"timestep", "condition", "labels", "precision"}


def read(data: bytes, shape: tuple[int, ...], networks: Sequence[str] = ("network.",)) -> Plan:
    """The plan in these bytes, of images of this shape and networks of these names: allowed operations only, within the
    bounds, and no image that depends on another (rules.check). Raises BadPlan."""
    _require(len(data) <= bounds.PLAN_BYTES, f"a plan of {len(data):,} bytes, at most {bounds.PLAN_BYTES:,} are read")
    try:
        content = json.loads(data, parse_constant=lambda name: _require(False, f"the number {name}"))
    except BadPlan:
        raise
    except (ValueError, RecursionError):
        raise BadPlan("a plan that is no JSON") from None
    keys = {"plan", "shape", "batch", "steps", "result"}
    sound = isinstance(content, dict) and content.keys() == keys and content["plan"] == 1 and content["shape"] == list(shape)
    _require(sound, f"a plan of another form or shape, expected {', '.join(sorted(keys))} and images {list(shape)}")
    rows, result = content["batch"], content["result"]
    sound = rows is None or (type(rows) is int and 0 < rows <= bounds.PLAN_BATCH)
    _require(sound and isinstance(content["steps"], list), "a plan whose batch or steps are of another type")
    steps: list[Step] = []
    for number, step in enumerate(content["steps"]):
        types = {"op": str, "args": list, "kwargs": dict, "at": str}
        sound = isinstance(step, dict) and step.keys() == types.keys()
        _require(sound and all(isinstance(step[key], types[key]) for key in types), f"step {number} is of another form")
        step = Step(step["op"], step["args"], step["kwargs"], _printable(step["at"][:120]))
        try:
            _check_step(step, steps, networks)
        except BadPlan as error:
            raise BadPlan(f"step {number} ({step.at}): {error}") from None
        steps.append(step)
    _require(isinstance(result, dict) and "step" in result, "the result is no step")
    _check_argument(result, steps)
    plan = Plan(tuple(shape), rows, tuple(steps), result)
    calls, filters = plan.count("network"), sum(ALLOWED.get(step.name) == "plane" for step in steps)
    times = (calls + 1) * (rows or 1)
    for count, what, most in (
        (calls, "network calls", bounds.PLAN_CALLS),
        (plan.operations, f"operations for {calls} network calls", bounds.PLAN_OPERATIONS * times),
        (plan.count("draw"), f"draws for {calls} network calls", bounds.PLAN_OPERATIONS * times),
        (filters, f"filters, borders and changes of size for {calls} network calls", bounds.PLAN_FILTERS * times),
        (plan.numbers, "different constants", bounds.PLAN_NUMBERS),
    ):
        _require(count <= most, f"{count} {what}, at most {most} are allowed")
    return replace(plan, calls=check(plan, rows or 3))


# ---------------------------------------------------------------------------------------------------- what may stand there


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise BadPlan(text)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _is_size(value: Any) -> bool:
    return (type(value) is int and 0 <= value < bounds.ARGUMENT_SIZE) or (isinstance(value, dict) and value.keys() == {"batch"})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and any(key in value for key in keys)


def _is_draw_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int or _has("batch")(each) for each in value)


TAGS = {  # values with one key: what is allowed, and what others are
    "batch": (lambda size: type(size) is int and 0 < size < bounds.ARGUMENT_SIZE, "a size that is no multiple of the batch"),
    "dtype": (operations.DTYPES, "a type or format that plans do not have"),
    "format": (operations.FORMATS, "a type or format that plans do not have"),
    "float": (("nan", "inf", "-inf"), "a number that is none"),
}
FORMS = {  # steps of OWN: what their arguments are, a type, a choice of values or a test, and what others are
    "draw": ((operations.LAWS, _is_draw_shape, _has("dtype"), _is_number, _is_number, bool, bool), "a draw of another form"),
    "network": ((str, dict), "a call of what is no network of the submission"),
    "labels": ((), "labels of another form"),
    "ask": ((operations.QUESTIONS, list, bool), "a question of another form"),
    "get": ((dict, list, object), "get of another form"),
    "put": ((dict, object, list), "put of another form"),
    "constant": ((_has("tensor"),), "a constant of another form"),
    "quantile": ((object, object, object, bool, operations.TEXTS), "a quantile of another form"),
}


def _fits(value: Any, form: type | tuple[str, ...] | Callable[[Any], bool]) -> bool:
    if isinstance(form, type):
        return isinstance(value, form)
    return value in form if isinstance(form, tuple) else form(value)


def _check_step(step: Step, earlier: list[Step], networks: Sequence[str]) -> None:
    """Raise BadPlan for an operation that is not allowed, or has other arguments than it takes."""
    instead = f": write {operations.INSTEAD[step.name]}" if step.name in operations.INSTEAD else ""
    _require(_is_allowed(step.op), f"{_printable(step.op[:60])} is not an operation of plans{instead}")
    for value in [*step.args, *step.kwargs.values()]:
        _check_argument(value, earlier)
    if step.op not in OWN:
        texts = {value for value in [*step.args, *step.kwargs.values()] if isinstance(value, str)}
        sound = texts <= set(operations.TEXTS) and not step.kwargs.keys() & {"device", "layout", "pin_memory"}
        return _require(sound, "an option that plans do not have")
    forms, text = FORMS[step.op]
    _require(len(step.args) == len(forms) and all(map(_fits, step.args, forms)), text)
    if step.op != "network":
        return _require(not step.kwargs, f"{step.op} takes no options")
    options = dict(step.kwargs)
    _require(step.args[0] in networks and options.keys() <= CALL_OPTIONS, text)
    _require(options.pop("precision", None) in PRECISIONS, "a call in a precision that networks do not have")
    sound = "timestep" in options and all(map(_has("step", "tensor"), options.values()))
    _require(sound, "a call whose time is no tensor")


def _is_allowed(op: str) -> bool:
    name, dot, overload = op.partition(".")
    if not dot or name not in ALLOWED:
        return op in OWN
    packet = getattr(torch.ops.aten, name, None)
    return packet is not None and overload in packet.overloads() and "out" not in overload and op != "view.dtype"


def _check_argument(value: Any, earlier: list[Step], depth: int = 0) -> None:
    """Raise BadPlan for what is no argument of a step after these."""
    _require(depth <= bounds.ARGUMENT_DEPTH, "arguments within arguments")
    if isinstance(value, list):
        _require(
            len(value) <= bounds.CONSTANT_VALUES, f"a list of {len(value):,} values, at most {bounds.CONSTANT_VALUES} are read"
        )
        for each in value:
            _check_argument(each, earlier, depth + 1)
    elif isinstance(value, dict):
        _check_tagged(value, earlier)
    elif isinstance(value, str):
        _require(len(value) <= bounds.ARGUMENT_LETTERS, f"a text of {len(value):,} letters")
    elif type(value) is int:
        _require(-(2**63) <= value < 2**63, "a number of more than 64 bits")


def _check_tagged(value: dict[str, Any], earlier: list[Step]) -> None:
    keys = set(value)
    if len(keys) == 1 and keys <= TAGS.keys():
        [(key, content)] = value.items()
        _require(_fits(content, TAGS[key][0]), TAGS[key][1])
    elif keys in ({"step"}, {"step", "out"}):
        number, out = value["step"], value.get("out", 0)
        sound = type(number) is int and type(out) is int and 0 <= number < len(earlier) and out >= 0
        _require(sound, "refers to what is no earlier step")
        sound = not out or earlier[number].name not in operations.PLACES_GIVEN
        _require(sound, "reads the places of values, as max(dim) and max_pool2d give them")
    elif keys == {"tensor", "values", "shape", "sizes", "copies"}:
        values, shape, sizes, copies = (value[key] for key in ("values", "shape", "sizes", "copies"))
        form = "a constant of another form"
        _require(all(isinstance(each, list) for each in (values, shape, sizes)) and isinstance(copies, bool), form)
        text = f"a constant of {len(values):,} values, at most {bounds.CONSTANT_VALUES} are held"
        _require(len(values) <= bounds.CONSTANT_VALUES, text)
        _require(value["tensor"] in operations.DTYPES and len(sizes) == len(shape) + copies, form)
        _require(len(shape) <= bounds.CONSTANT_DIMENSIONS, form)
        sound = all(isinstance(each, (int, float)) or (isinstance(each, dict) and each.keys() == {"float"}) for each in values)
        _require(sound, "a constant of what are no numbers")
        _require(all(map(_is_size, shape + sizes)), "a constant of no shape")
        _check_argument([values, shape, sizes], earlier)
        sound = all(type(size) is int for size in sizes) and math.prod(sizes) == len(values)
        _require(sound, "a constant of other sizes than values")
        _require(not copies or sizes[1:2] == [1], "a constant that is not the same for every image of the batch")
    else:
        raise BadPlan("an argument of another form")
