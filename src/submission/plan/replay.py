"""Run a plan: its steps, with networks, noise and labels that the caller gives. It stands alone, as record.py."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

if TYPE_CHECKING:
    from .operations import Plan, Step

Call = Callable[[int, str, torch.Tensor, dict[str, torch.Tensor], torch.dtype], torch.Tensor]
Draw = Callable[[int, "Law"], torch.Tensor]


class OtherAnswer(Exception):
    """A question of yes or no, which the plan holds the answer of, has another answer for these images; or none at all, since
    a step cannot be done with them."""


@dataclass(frozen=True)
class Law:
    """What a draw asks for: law "normal" (low: mean, high: deviation), "uniform" or "integers" (from low to below high), its
    shape, dtype, whether it lies in memory by pixels (channels_last), and whether NumPy's global generator was asked."""

    law: str
    shape: list[int]
    dtype: torch.dtype
    low: float
    high: float
    channels_last: bool
    by_numpy: bool

    @property
    def format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def replay(
    plan: "Plan", batch: int, call: Call, draw: Draw, labels: torch.Tensor | None = None, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """The images (batch, C, H, W) of a plan.

    Args:
        call: (number of the call, network's prefix, x (k batch, C, H, W), its other inputs by name, dtype of the autocast) ->
            the answer, as x in shape.
        draw: (number of the draw, Law) -> a tensor of that shape on the device.
        labels: (batch,), for a plan that asks for them.

    Raises OtherAnswer; steps that do not fit together are found beforehand by rules.check.
    """
    values: dict[int, Any] = {}
    calls, draws = count(), count()

    def resolved(value: Any) -> Any:
        return resolve(value, values, batch, lambda tensor: constant(tensor, batch).to(device))

    for number, step in enumerate(plan.steps):
        args, kwargs = arguments(step, resolved)
        if step.op == "network":
            prefix, x = args
            precision = kwargs.pop("precision")
            values[number] = call(next(calls), prefix, x, kwargs, precision)
        try:
            if step.op == "draw":
                values[number] = draw(next(draws), Law(*args))
            elif step.op == "labels":
                values[number] = labels
            elif step.op == "ask":
                name, given, answer = args
                found = given[0].item() if name == "_local_scalar_dense" else getattr(torch.ops.aten, name)(*given)
                if bool(found) != answer:
                    raise OtherAnswer(f"step {number} ({step.at}) answers {not answer}")
            elif step.op != "network":
                values[number] = apply(step.op, args, kwargs)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError) as error:  # such as a division of whole numbers by zero
            raise OtherAnswer(f"step {number} ({step.at}) cannot be done ({type(error).__name__})") from error
        for old in plan.last_uses.get(number, ()):
            values.pop(old, None)
    return resolved(plan.result)


def arguments(step: "Step", resolved: Callable[[Any], Any]) -> tuple[list[Any], dict[str, Any]]:
    """A step's arguments and options as its operation takes them."""
    return resolved(step.args), {name: resolved(value) for name, value in step.kwargs.items()}


def resolve(value: Any, values: dict[int, Any], batch: int, tensor: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """An argument of a step with what its references, constants (by `tensor`), sizes and types stand for."""

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, dict):
            return leaf
        if "tensor" in leaf:
            return tensor(leaf)
        if "step" in leaf:
            found = values[leaf["step"]]
            return found[leaf.get("out", 0)] if isinstance(found, (tuple, list)) else found
        [(kind, content)] = leaf.items()
        return content * batch if kind == "batch" else float(content) if kind == "float" else getattr(torch, content)

    return tree_map(of, value, is_leaf=lambda each: isinstance(each, dict))


def constant(value: dict[str, Any], batch: int) -> torch.Tensor:
    """A constant tensor: its values, spread over the dimensions that they do not vary along."""
    numbers, shape = (resolve(value[key], {}, batch) for key in ("values", "shape"))
    values = torch.tensor(numbers, dtype=getattr(torch, value["tensor"])).reshape(value["sizes"])
    if value["copies"]:
        return values.expand(shape[0] // batch, batch, *shape[1:]).reshape(shape)
    return values.expand(shape).contiguous()


def apply(op: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The result of an operation that is neither a draw nor a call."""
    if op == "constant":
        return args[0]
    if op == "get":
        return args[0][as_index(args[1])].reshape(args[2])
    if op == "put":
        base, content, index = args
        changed = base.clone()
        part = changed[as_index(index)]
        part.copy_(content.reshape(part.shape))
        return changed
    if op == "quantile":
        return torch.quantile(*args[:3], keepdim=args[3], interpolation=args[4])
    return overload_of(op)(*args, **kwargs)


def overload_of(op: str) -> Any:
    """torch's own operation, such as add.Tensor."""
    name, _, overload = op.partition(".")
    return getattr(getattr(torch.ops.aten, name), overload)


def as_index(index: list[Any]) -> tuple[Any, ...]:
    return tuple(slice(*each) if isinstance(each, list) else each for each in index)


def stand_in(number: int, x: torch.Tensor, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """The answer to call `number` where there is no network: of x's shape, float32, in (-1, 1)."""
    ends = [1] * (x.ndim - 1)
    shift = sum((value.double().nan_to_num().cos().reshape(-1, *ends) for value in given.values()), torch.tensor(0.0))
    return torch.cos(1.7 * x.double() + shift + number).mul(0.9).float().contiguous()
