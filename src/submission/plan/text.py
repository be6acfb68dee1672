"""A plan as arithmetic that people read: one line for each draw, each call, and each value that is used more than once."""

from typing import Any

from .operations import Plan, Step

INFIX = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "div": ("/", 2), "pow": ("**", 4)}
INFIX |= {"lt": ("<", 0), "le": ("<=", 0), "gt": (">", 0), "ge": (">=", 0), "eq": ("==", 0), "ne": ("!=", 0)}
SILENT = {"detach", "alias", "clone", "lift_fresh", "expand", "constant", "contiguous"}  # change no value
SIZES = {"view", "_unsafe_view", "reshape"}
WIDTH = 110  # a longer line is taken apart
ATOM = 9


def lines(plan: Plan) -> list[str]:
    """The plan, line by line; the last one says which value the images are."""
    return _Text(plan).lines


class _Text:
    def __init__(self, plan: Plan):
        self.plan, self.lines = plan, []
        self.names: dict[tuple[int, int], tuple[str, int]] = {}  # step and output -> text, and how tightly it holds
        uses: dict[int, int] = {}
        for step in plan.steps:
            for number in _used([step.args, list(step.kwargs.values())]):
                uses[number] = uses.get(number, 0) + 1
        for number, step in enumerate(plan.steps):
            text, holds = self.written(step)
            if step.op == "ask":
                self.lines.append(text)
                continue
            kept = step.op not in ("draw", "network", "labels") and step.name not in ("split", "chunk", "unbind")
            if kept and (holds == ATOM or (uses.get(number, 0) == 1 and len(text) < WIDTH)):
                self.names[number, 0] = (text, holds)
                continue
            name = {"draw": "noise", "network": "y", "labels": "labels"}.get(step.op, "x") + str(len(self.lines))
            self.lines.append(f"{name} = {text}")
            self.names[number, 0] = (name, ATOM)
        images, _ = self.value(plan.result)
        self.lines.append(f"images = {images}")

    def written(self, step: Step) -> tuple[str, int]:
        args, name = step.args, step.name
        values = [self.value(each) for each in args]
        if step.op == "draw":
            law, shape, _, low, high = args[:5]
            spread = "" if (low, high) == (0, 1) else f", {_number(low)}, {_number(high)}"
            return f"{law}({_sizes(shape)}{spread})", ATOM - 1
        if step.op == "network":
            given = [values[1][0], *(f"{key}={self.value(each)[0]}" for key, each in step.kwargs.items() if key != "precision")]
            return f"{args[0].rstrip('.') or 'network'}({', '.join(given)})", ATOM - 1
        if step.op == "labels":
            return "the classes asked for", ATOM
        if step.op == "ask":
            what = (
                f"any {self.value(args[1][0])[0]}" if len(args[1]) == 1 else ", ".join(self.value(each)[0] for each in args[1])
            )
            return f"stop unless ({what.removeprefix('any ')}) is {args[2]}", 0
        if name in SILENT:
            return values[0]
        if name == "_to_copy":
            dtype = step.kwargs.get("dtype", {}).get("dtype")
            return (f"{dtype}({values[0][0]})", ATOM - 1) if dtype else values[0]
        if name in SIZES:
            return f"{_held(values[0], ATOM)}.view({_sizes(args[1])})", ATOM - 1
        if name in INFIX and len(args) >= 2:
            sign, holds = INFIX[name]
            scale = step.kwargs.get("alpha", args[2] if len(args) > 2 and name in ("add", "sub") else 1)
            other = values[1] if scale == 1 else (f"{_number(scale)} * {_held(values[1], 2)}", 2)
            return f"{_held(values[0], holds)} {sign} {_held(other, holds + (sign in '-/**'))}", holds
        if name == "rsub":
            return f"{_held(values[1], 1)} - {_held(values[0], 2)}", 1
        if name == "neg":
            return f"-{_held(values[0], 3)}", 3
        if step.op == "get":
            return f"{_held(values[0], ATOM)}[{_index(args[1])}]", ATOM - 1
        if step.op == "put":
            return f"{values[0][0]} with [{_index(args[2])}] = {values[1][0]}", 0
        more = [
            f"{key}={self.value(each)[0]}"
            for key, each in step.kwargs.items()
            if not isinstance(each, dict) or "format" not in each
        ]
        return f"{name.strip('_')}({', '.join([*(text for text, _ in values), *more])})", ATOM - 1

    def value(self, value: Any) -> tuple[str, int]:
        if isinstance(value, list):
            return f"[{', '.join(self.value(each)[0] for each in value)}]", ATOM
        if not isinstance(value, dict):
            return (_number(value), 3 if isinstance(value, (int, float)) and value < 0 else ATOM)
        if "step" in value:
            text, holds = self.names.get((value["step"], 0), ("?", ATOM))
            several = self.plan.steps[value["step"]].name in ("split", "split_with_sizes", "chunk", "unbind")
            return (f"{text}[{value.get('out', 0)}]", ATOM) if several else (text, holds)
        if "tensor" in value:
            shown = [_number(each) for each in value["values"][:12]]
            more = f", ... ({len(value['values'])} numbers)" if len(value["values"]) > 12 else ""
            return (shown[0], ATOM) if len(value["values"]) == 1 else (f"[{', '.join(shown)}{more}]", ATOM)
        return _number(value), ATOM


def _held(value: tuple[str, int], holds: int) -> str:
    return value[0] if value[1] >= holds else f"({value[0]})"


def _number(value: Any) -> str:
    if isinstance(value, dict):
        if "batch" in value:
            return "B" if value["batch"] == 1 else f"{value['batch']}B"
        return str(next(iter(value.values())))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _sizes(values: list[Any]) -> str:
    return ", ".join(map(_number, values))


def _index(index: list[Any]) -> str:
    def part(each: Any) -> str:
        if not isinstance(each, list):
            return _number(each)
        return f"{_number(each[0])}:{_number(each[1])}" + (f":{_number(each[2])}" if each[2] != 1 else "")

    return ", ".join(map(part, index))


def _used(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [value["step"]] if "step" in value else []
    return [number for each in value for number in _used(each)] if isinstance(value, list) else []
