"""NumPy in a sampler that is recorded: its draws become steps, and simple arithmetic of arrays is done to their tensors."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

if TYPE_CHECKING:
    from .record import Recorder

UFUNCS = {"multiply": "mul", "subtract": "sub", "add": "add", "divide": "div", "true_divide": "div", "negative": "neg"}
UFUNCS |= {"absolute": "abs", "power": "pow"}
UFUNCS |= {name: name for name in ("sqrt", "exp", "tanh", "square", "minimum", "maximum", "clip", "isfinite", "isnan")}
METHODS = {  # what an array's method is to its tensor; values: what the method gave
    "astype": lambda tensor, values, *_: tensor.to(_dtype_of(values)),
    "reshape": lambda tensor, values, *_: tensor.reshape(values.shape),
    "transpose": lambda tensor, values, *axes: tensor.permute(*(axes or range(values.ndim)[::-1])),
    "copy": lambda tensor, *_: tensor.clone(),
}
LAWS = dict.fromkeys(("randn", "standard_normal", "normal"), "normal")
LAWS |= dict.fromkeys(("rand", "random", "random_sample", "uniform"), "uniform")
OPTIONS = {"normal": ("loc", "scale"), "uniform": ("low", "high")}  # of functions, by their names


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it nothing is recorded."""
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield


class Array(np.ndarray):
    """A NumPy array that depends on noise or an answer: what is done to it is done to its tensor.

    Simple arithmetic is followed. Anything else gives a plain array, whose values then are a constant too large for a plan.
    """

    tensor: torch.Tensor | None = None

    @classmethod
    def of(cls, tensor: torch.Tensor, values: np.ndarray) -> "Array":
        array = np.asarray(values).view(cls)
        array.tensor = tensor
        return array

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        plain = [np.asarray(value) if isinstance(value, Array) else value for value in inputs]
        values = getattr(ufunc, method)(*plain, **{key: value for key, value in kwargs.items() if key != "out"})
        name = UFUNCS.get(ufunc.__name__) if method == "__call__" and not kwargs else None
        if name is None or any(isinstance(value, Array) and value.current() is None for value in inputs):
            return values
        tensors = [_as_operand(value) for value in inputs]
        tensor = torch.clamp(tensors[0], *tensors[1:]) if name == "clip" else getattr(torch, name)(*tensors)
        return Array.of(tensor.to(_dtype_of(values)), values)

    def current(self) -> torch.Tensor | None:
        """The tensor, unless the array was written to since."""
        with quiet():
            same = self.tensor is not None and np.array_equal(self.tensor.detach().numpy(), np.asarray(self), equal_nan=True)
        return self.tensor if same else None


def _followed(name: str) -> Callable[..., np.ndarray]:
    def method(self: Array, *args: Any, **kwargs: Any) -> np.ndarray:
        values = getattr(np.asarray(self), name)(*args, **kwargs)
        return values if self.current() is None else Array.of(METHODS[name](self.tensor, values, *args), values)

    return method


for _name in METHODS:
    setattr(Array, _name, _followed(_name))


def _dtype_of(values: np.ndarray) -> torch.dtype:
    return torch.from_numpy(np.empty(0, values.dtype)).dtype


def _as_operand(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tensor if isinstance(value, Array) else torch.from_numpy(value)
    return value.item() if isinstance(value, np.generic) else value


@contextlib.contextmanager
def numpy_recorded(recorder: "Recorder") -> Iterator[None]:
    """Within it NumPy's draws are steps too, and torch.from_numpy knows arrays that depend on them."""

    def drawing(name: str, draw: Callable[..., Any], by_numpy: bool) -> Callable[..., Any]:
        def drawn(*args: Any, **kwargs: Any) -> Any:
            values = draw(*args, **kwargs)
            if not isinstance(values, np.ndarray):
                return values
            options = OPTIONS.get(name, ("", ""))
            given = dict(zip(options, args, strict=False)) | kwargs if name in OPTIONS else {}
            low, high = (float(given.get(option, plain)) for option, plain in zip(options, (0.0, 1.0), strict=True))
            tensor = torch.from_numpy(values)
            recorder.drawn(tensor, LAWS[name], low, high, by_numpy=by_numpy)
            return Array.of(tensor, values)

        return drawn

    def generators(make: Callable[..., Any]) -> type:
        """Generators of NumPy whose draws are steps."""

        class Generator:
            def __init__(self, *args: Any, **kwargs: Any):
                self._generator = make(*args, **kwargs)

            def __getattr__(self, name: str) -> Any:
                found = getattr(self._generator, name)
                return drawing(name, found, False) if name in LAWS else found

        return Generator

    def from_numpy(array: np.ndarray) -> torch.Tensor:
        tensor = array.current() if isinstance(array, Array) else None
        return plain_from_numpy(np.asarray(array)) if tensor is None else tensor

    plain_from_numpy = torch.from_numpy
    before = {name: getattr(np.random, name) for name in (*LAWS, "default_rng", "RandomState")}
    try:
        torch.from_numpy = from_numpy
        for name, function in before.items():
            setattr(np.random, name, drawing(name, function, True) if name in LAWS else generators(function))
        yield
    finally:
        torch.from_numpy = plain_from_numpy
        for name, function in before.items():
            setattr(np.random, name, function)
