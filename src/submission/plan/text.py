"""A plan as arithmetic that people read: one line for each draw, each call, and each value that is used more than once."""

from collections import Counter
from typing import Any

from .operations import Plan, Step

INFIX = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "div": ("/", 2), "pow": ("**", 4)}
INFIX |= {"lt": ("<", 0), "le": ("<=", 0), "gt": (">", 0), "ge": (">=", 0), "eq": ("==", 0), "ne": ("!=", 0)}
SILENT = {"detach", "alias", "clone", "lift_fresh", "expand", "constant"}  # change no value
SIZES = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
SEVERAL = {"split", "split_with_sizes", "chunk", "unbind"}  # give more than one tensor
NAMES = {"draw": "noise", "network": "y", "labels": "labels"}
WIDTH = 110  # a longer line is taken apart
ATOM = 9  # how tightly a name, a number or a call of a function holds together
END = 2**63 - 1
Text = tuple[str, int]  # and how tightly it holds


def lines(plan: Plan) -> list[str]:
    """The plan, line by line; the last one says which value the images are."""
    found: list[str] = []
    names: dict[int, Text] = {}  # step -> what it is called in later lines
    uses = Counter([number for step in plan.steps for number in step.uses] + [plan.result["step"]])
    for number, step in enumerate(plan.steps):
        text, holds = _written(step, plan, names)
        inline = step.op not in NAMES and step.name not in SEVERAL
        if step.op == "ask":
            found.append(text)
        elif inline and ((step.name in SILENT and holds == ATOM) or (uses[number] == 1 and len(text) < WIDTH)):
            names[number] = (text, holds)
        elif number in uses or not inline:
            names[number] = (NAMES.get(step.op, "x") + str(len(found)), ATOM)
            found.append(f"{names[number][0]} = {text}")
    return [*found, f"images = {_value(plan.result, plan, names)[0]}"]


def _written(step: Step, plan: Plan, names: dict[int, Text]) -> Text:
    args, name = step.args, step.name
    values = [_value(each, plan, names) for each in args]
    texts = [text for text, _ in values]
    base = _held(values[0], ATOM) if values else ""
    options = [f"{key}={_value(each, plan, names)[0]}" for key, each in step.kwargs.items() if _is_shown(key, each)]
    if step.op == "draw":
        spread = "" if args[3:5] == [0, 1] else f", {texts[3]}, {texts[4]}"
        return f"{args[0]}({texts[1][1:-1]}{spread})", ATOM
    if step.op == "network":
        return f"{args[0].rstrip('.') or 'network'}({', '.join([texts[1], *options])})", ATOM
    if step.op == "labels":
        return "the classes asked for", ATOM
    if step.op == "ask":
        return f"stop unless {texts[1][1:-1]} is {args[2]}", 0
    if name in SILENT:
        return values[0]
    if name == "_to_copy":
        return (f"{step.kwargs['dtype']['dtype']}({texts[0]})", ATOM) if "dtype" in step.kwargs else values[0]
    if name in SIZES:
        return f"{base}.view({texts[1][1:-1]})", ATOM
    if name in INFIX and len(values) > 1:
        sign, holds = INFIX[name]
        scale = step.kwargs.get("alpha", args[2] if len(args) > 2 and name in ("add", "sub") else 1)
        other = values[1] if scale == 1 else (f"{_number(scale)} * {_held(values[1], 3)}", 2)
        return f"{_held(values[0], holds)} {sign} {_held(other, holds + (sign in '-/**'))}", holds
    if name == "rsub":
        return f"{_held(values[1], 1)} - {_held(values[0], 2)}", 1
    if name == "neg":
        return f"-{_held(values[0], 3)}", 3
    if name == "select" or (name == "slice" and len(args) > 2):
        part = texts[2] if name == "select" else _range([*args[2:], *[END, 1][len(args) - 3 :]])
        return f"{base}[{', '.join([*[':'] * args[1], part])}]", ATOM
    if step.op == "get":
        return f"{base}[{', '.join(map(_range, args[1]))}]", ATOM
    if step.op == "put":
        return f"{texts[0]} with [{', '.join(map(_range, args[2]))}] = {texts[1]}", 0
    return f"{name.strip('_')}({', '.join([*texts, *options])})", ATOM


def _is_shown(key: str, value: Any) -> bool:
    return key not in ("precision", "implicit") and not (isinstance(value, dict) and "format" in value)


def _value(value: Any, plan: Plan, names: dict[int, Text]) -> Text:
    if isinstance(value, list):
        return f"[{', '.join(_value(each, plan, names)[0] for each in value)}]", ATOM
    if isinstance(value, dict) and "step" in value:
        text, holds = names.get(value["step"], ("?", ATOM))
        return (f"{text}[{value.get('out', 0)}]", ATOM) if plan.steps[value["step"]].name in SEVERAL else (text, holds)
    if isinstance(value, dict) and "tensor" in value:
        values = [_number(each) for each in value["values"]]
        rest = f", ... ({len(values)} numbers)" if len(values) > 12 else ""
        text = values[0] if len(values) == 1 else f"[{', '.join(values[:12])}{rest}]"
    else:
        text = _number(value)
    return text, 3 if text[:1] == "-" else ATOM


def _held(value: Text, holds: int) -> str:
    return value[0] if value[1] >= holds else f"({value[0]})"


def _number(value: Any) -> str:
    if isinstance(value, dict):
        batch = value.get("batch")
        return ("B" if batch == 1 else f"{batch}B") if batch else str(next(iter(value.values())))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _range(each: Any) -> str:
    """A part of a dimension: a number, or [start, stop, step]."""
    if not isinstance(each, list):
        return _number(each)
    start, stop, step = (_number(part) for part in each)
    return f"{start if start != '0' else ''}:{stop if stop != str(END) else ''}" + (f":{step}" if step != "1" else "")
