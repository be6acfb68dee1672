"""Run a plan: its steps, with networks, noise and labels that the caller gives. It stands alone, as record.py."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .operations import Plan

Call = Callable[[int, str, torch.Tensor, dict[str, torch.Tensor], torch.dtype], torch.Tensor]
Draw = Callable[[int, "Law"], torch.Tensor]


class OtherAnswer(Exception):
    """A question of yes or no, which the plan holds the answer of, has another answer for these images; or none at all, since
    a step cannot be done with them."""


class Law:
    """What a draw asks for: law "normal" (low: mean, high: deviation), "uniform" or "integers" (from low to below high), its
    shape, dtype, whether it lies in memory by pixels (channels_last), and whether NumPy's global generator was asked."""

    def __init__(self, law: str, shape: list[int], dtype: torch.dtype, low: float, high: float, last: bool, by_numpy: bool):
        self.law, self.shape, self.dtype, self.low, self.high = law, tuple(shape), dtype, low, high
        self.format = torch.channels_last if last else torch.contiguous_format
        self.by_numpy = by_numpy


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
    calls = draws = 0
    for number, step in enumerate(plan.steps):
        args = resolve(step.args, values, batch, device)
        kwargs = {name: resolve(value, values, batch, device) for name, value in step.kwargs.items()}
        if step.op == "network":
            prefix, x = args
            precision = kwargs.pop("precision")
            values[number] = call(calls, prefix, x, kwargs, precision)
            calls += 1
        try:
            if step.op == "draw":
                values[number] = draw(draws, Law(*args))
                draws += 1
            elif step.op == "labels":
                values[number] = labels
            elif step.op == "ask":
                if (answer := asked(*args)) != args[-1]:
                    raise OtherAnswer(f"step {number} ({step.at}) answers {answer}")
            elif step.op != "network":
                values[number] = apply(step.op, args, kwargs)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError) as error:  # such as a division of whole numbers by zero
            raise OtherAnswer(f"step {number} ({step.at}) cannot be done ({type(error).__name__})") from error
        for old in plan.last_uses.get(number, ()):
            values.pop(old, None)
    return resolve(plan.result, values, batch, device)


def resolve(value: Any, values: dict[int, Any], batch: int, device: torch.device | str) -> Any:
    """An argument of a step as the operation takes it: references, constants and sizes in the place of what stands for them."""
    if isinstance(value, (list, tuple)):
        return [resolve(each, values, batch, device) for each in value]
    if not isinstance(value, dict):
        return value
    if "step" in value:
        found = values[value["step"]]
        return found[value.get("out", 0)] if isinstance(found, (tuple, list)) else found
    if "tensor" in value:
        return constant(value, batch).to(device)
    if "batch" in value:
        return value["batch"] * batch
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    if "format" in value:
        return getattr(torch, value["format"])
    return float(value["float"])


def constant(value: dict[str, Any], batch: int) -> torch.Tensor:
    """A constant tensor: its values, spread over the dimensions that they do not vary along."""
    shape, sizes = resolve([value["shape"], value["sizes"]], {}, batch, "cpu")
    values = torch.tensor(resolve(value["values"], {}, batch, "cpu"), dtype=getattr(torch, value["tensor"])).reshape(sizes)
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
        x, q, dim, keepdim, interpolation = args
        return torch.quantile(x, q, dim=dim, keepdim=keepdim, interpolation=interpolation)
    name, _, overload = op.partition(".")
    return getattr(getattr(torch.ops.aten, name), overload)(*args, **kwargs)


def as_index(index: list[Any]) -> tuple[Any, ...]:
    return tuple(slice(*each) if isinstance(each, list) else each for each in index)


def asked(name: str, args: list[Any], _: bool) -> bool:
    return bool(args[0].item()) if name == "_local_scalar_dense" else getattr(torch.ops.aten, name)(*args)


def stand_in(number: int, x: torch.Tensor, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """What takes the place of the answer to call `number` where there is no network: of x's shape, float32, in (-1, 1)."""
    shift = sum(
        (value.double().nan_to_num().cos().reshape(-1, *[1] * (x.ndim - 1)) for value in given.values()), torch.tensor(0.0)
    )
    return torch.cos(1.7 * x.double() + shift + number).mul(0.9).float().contiguous()
