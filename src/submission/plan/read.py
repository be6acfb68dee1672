"""Read a plan strictly: it comes from a stranger, and nothing of it is believed."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from .operations import (
    ALLOWED,
    BYTES,
    DTYPES,
    FILTERS,
    FORMATS,
    INSTEAD,
    LAWS,
    MOST_CALLS,
    MOST_ROWS,
    MOST_VALUES,
    NUMBERS,
    OPERATIONS,
    OWN,
    PLANES,
    QUESTIONS,
    TEXTS,
    BadPlan,
    Plan,
    Step,
)
from .rules import check


def read(data: bytes, shape: tuple[int, ...], networks: tuple[str, ...] = ("network.",)) -> Plan:
    """The plan that these bytes tell, of images of this shape and networks of these names: allowed operations only, within the
    budgets, and no image that depends on another (rules.check). Raises BadPlan."""
    if len(data) > BYTES:
        raise BadPlan(f"a plan of {len(data):,} bytes, at most {BYTES:,} are read")
    try:
        told = json.loads(data, parse_constant=lambda name: _bad(f"the number {name}"))
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, BadPlan) else BadPlan("a plan that is no JSON") from None
    keys = {"plan", "shape", "batch", "steps", "result"}
    if not isinstance(told, dict) or told.keys() != keys or told["plan"] != 1 or told["shape"] != list(shape):
        raise BadPlan(f"a plan of another form or shape, expected {', '.join(sorted(keys))} and images {list(shape)}")
    rows = told["batch"]
    if not (rows is None or (type(rows) is int and 0 < rows <= MOST_ROWS)) or not isinstance(told["steps"], list):
        raise BadPlan("a plan whose batch or steps are of another type")
    steps = []
    for number, step in enumerate(told["steps"]):
        if not isinstance(step, dict) or step.keys() != {"op", "args", "kwargs", "at"}:
            raise BadPlan(f"step {number} is of another form")
        op, args, kwargs, at = step["op"], step["args"], step["kwargs"], step["at"]
        if not (isinstance(op, str) and isinstance(args, list) and isinstance(kwargs, dict) and isinstance(at, str)):
            raise BadPlan(f"step {number} is of another form")
        at = "".join(letter if letter.isprintable() else "?" for letter in at[:120])
        where = f"step {number} ({at})"
        if not _allowed(op):
            instead = INSTEAD.get(op.partition(".")[0])
            raise BadPlan(f"{where}: {_shown(op)} is not an operation of plans" + (f": write {instead}" if instead else ""))
        for value in [*args, *kwargs.values()]:
            _check_value(value, number, where)
        steps.append(Step(op, args, kwargs, at))
        _check_own(steps[-1], where, networks)
    _check_value(told["result"], len(steps), "the result")
    if not isinstance(told["result"], dict) or "step" not in told["result"]:
        raise BadPlan("the result is no step")
    plan = Plan(tuple(shape), rows, tuple(steps), told["result"], _last_uses(steps, told["result"]))
    calls = sum(step.op == "network" for step in steps)
    if calls > MOST_CALLS:
        raise BadPlan(f"{calls} network calls, at most {MOST_CALLS} are taken")
    draws = sum(step.op == "draw" for step in steps)
    if max(plan.operations, draws) > (most := OPERATIONS * (calls + 1) * (rows or 1)):
        raise BadPlan(f"{plan.operations} operations for {calls} network calls, and {draws} draws, at most {most} are allowed")
    most = FILTERS * (calls + 1) * (rows or 1)
    if (filters := sum(step.name in PLANES for step in steps)) > most:
        raise BadPlan(f"{filters} filters, borders and changes of size for {calls} network calls, at most {most} are allowed")
    if plan.numbers > NUMBERS:
        raise BadPlan(f"{plan.numbers} different constants, at most {NUMBERS} are allowed")
    return replace(plan, calls=check(plan, rows or 3))


# ---------------------------------------------------------------------------------------------------- what may stand there


def _bad(text: str) -> None:
    raise BadPlan(text)


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:60])


def _allowed(op: str) -> bool:
    name, dot, overload = op.partition(".")
    if not dot:
        return name in OWN
    if name not in ALLOWED:
        return False
    packet = getattr(torch.ops.aten, name, None)
    return packet is not None and overload in packet.overloads() and "out" not in overload and op != "view.dtype"


def _check_value(value: Any, number: int, where: str, depth: int = 0) -> None:
    """Raise BadPlan for what is no argument of step `number`."""
    if depth > 4:
        raise BadPlan(f"{where}: arguments within arguments")
    if isinstance(value, list):
        if len(value) > MOST_VALUES:
            raise BadPlan(f"{where}: a list of {len(value):,} values, at most {MOST_VALUES} are read")
        for each in value:
            _check_value(each, number, where, depth + 1)
        return
    if isinstance(value, dict):
        return _check_tagged(value, number, where)
    if isinstance(value, str) and len(value) > 200:
        raise BadPlan(f"{where}: a text of {len(value):,} letters")
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        raise BadPlan(f"{where}: a number of more than 64 bits")


def _check_tagged(value: dict[str, Any], number: int, where: str) -> None:
    keys = set(value)
    if keys <= {"step", "out"} and "step" in keys:
        if not all(type(each) is int for each in value.values()) or not 0 <= value["step"] < number or value.get("out", 0) < 0:
            raise BadPlan(f"{where}: refers to what is no earlier step")
    elif keys == {"batch"}:
        if type(value["batch"]) is not int or not 0 < value["batch"] < 1 << 24:
            raise BadPlan(f"{where}: a size that is no multiple of the batch")
    elif keys == {"dtype"} or keys == {"format"}:
        if value.get("dtype", value.get("format")) not in (DTYPES if keys == {"dtype"} else FORMATS):
            raise BadPlan(f"{where}: a type or format that plans do not have")
    elif keys == {"float"}:
        if value["float"] not in ("nan", "inf", "-inf"):
            raise BadPlan(f"{where}: a number that is none")
    elif keys == {"tensor", "values", "shape", "sizes", "copies"}:
        values, shape, sizes = value["values"], value["shape"], value["sizes"]
        if not all(isinstance(each, list) for each in (values, shape, sizes)) or not isinstance(value["copies"], bool):
            raise BadPlan(f"{where}: a constant of another form")
        if len(values) > MOST_VALUES:
            raise BadPlan(f"{where}: a constant of {len(values):,} values, at most {MOST_VALUES} are held")
        if value["tensor"] not in DTYPES or len(shape) > 8 or len(sizes) != len(shape) + value["copies"]:
            raise BadPlan(f"{where}: a constant of another form")
        for each in values:
            if not isinstance(each, (int, float)) and not (isinstance(each, dict) and each.keys() == {"float"}):
                raise BadPlan(f"{where}: a constant of what are no numbers")
            _check_value(each, number, where)
        for each in [*shape, *sizes]:
            if isinstance(each, dict):
                _check_tagged(each, number, where)
            elif type(each) is not int or not 0 <= each < 1 << 24:
                raise BadPlan(f"{where}: a constant of no shape")
        if not all(type(size) is int for size in sizes) or math.prod(sizes) != len(values):
            raise BadPlan(f"{where}: a constant of other sizes than values")
        if value["copies"] and sizes[1] != 1:
            raise BadPlan(f"{where}: a constant that is not the same for every image of the batch")
    else:
        raise BadPlan(f"{where}: an argument of another form")


def _check_own(step: Step, where: str, networks: tuple[str, ...]) -> None:
    """Raise BadPlan where a step of OWN has other arguments than it takes."""
    args, kwargs, op = step.args, step.kwargs, step.op
    if op not in OWN:
        texts = [each for each in [*args, *kwargs.values()] if isinstance(each, str)]
        if kwargs.keys() & {"device", "layout", "pin_memory"} or not set(texts) <= set(TEXTS):
            raise BadPlan(f"{where}: an option that plans do not have")
        return
    if op in OWN - {"network"} and kwargs:
        raise BadPlan(f"{where}: {op} takes no options")
    if op == "draw":
        kinds = [str, list, dict, (int, float), (int, float), bool, bool]
        sound = len(args) == 7 and all(isinstance(arg, kind) for arg, kind in zip(args, kinds, strict=True)) and args[0] in LAWS
        sound = sound and "dtype" in args[2] and all(type(each) is int or "batch" in each for each in args[1])
        if not sound or not all(math.isfinite(each) for each in args[3:5]):
            raise BadPlan(f"{where}: a draw of another form")
    elif op == "network":
        options = {"timestep", "condition", "labels", "precision"}
        if (
            len(args) != 2
            or args[0] not in networks
            or not isinstance(args[1], dict)
            or not {"precision"} <= kwargs.keys() <= options
        ):
            raise BadPlan(f"{where}: a call of what is no network of the submission")
        if kwargs["precision"] not in ({"dtype": name} for name in DTYPES[:4] if name != "float64"):
            raise BadPlan(f"{where}: a call in a precision that networks do not have")
        if not all(
            isinstance(kwargs[name], dict) and kwargs[name].keys() & {"step", "tensor"}
            for name in kwargs
            if name != "precision"
        ):
            raise BadPlan(f"{where}: a call whose time is no tensor")
    elif op == "ask":
        if len(args) != 3 or args[0] not in QUESTIONS or not isinstance(args[1], list) or not isinstance(args[2], bool):
            raise BadPlan(f"{where}: a question of another form")
    elif op in ("get", "put"):
        if len(args) != 3 or not isinstance(args[0], dict) or not isinstance(args[2 if op == "put" else 1], list):
            raise BadPlan(f"{where}: {op} of another form")
    elif op == "constant" and (len(args) != 1 or not isinstance(args[0], dict) or "tensor" not in args[0]):
        raise BadPlan(f"{where}: a constant of another form")
    elif op == "quantile" and (len(args) != 5 or not isinstance(args[3], bool) or args[4] not in TEXTS):
        raise BadPlan(f"{where}: a quantile of another form")


def _references(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        yield from [value["step"]] if "step" in value else ()
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def _last_uses(steps: list[Step], result: dict[str, int]) -> dict[int, list[int]]:
    """Step -> the steps whose results nobody needs after it."""
    last = {}
    for number, step in enumerate(steps):
        last[number] = number
        last.update(dict.fromkeys(_references([step.args, list(step.kwargs.values())]), number))
    last.pop(result["step"], None)
    found: dict[int, list[int]] = {}
    for number, user in last.items():
        found.setdefault(user, []).append(number)
    return found
