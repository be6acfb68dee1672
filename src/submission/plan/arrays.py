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
        known = UFUNCS.get(ufunc.__name__) if method == "__call__" and not kwargs else None
        if known is None or any(isinstance(value, Array) and value.current() is None for value in inputs):
            return values
        tensors = [_as_operand(value) for value in inputs]
        tensor = torch.clamp(tensors[0], *tensors[1:]) if known == "clip" else getattr(torch, known)(*tensors)
        return Array.of(tensor.to(torch.from_numpy(np.empty(0, values.dtype)).dtype), values)

    def current(self) -> torch.Tensor | None:
        """The tensor, unless the array was written to since."""
        with quiet():
            known = self.tensor is not None and np.array_equal(self.tensor.detach().numpy(), np.asarray(self), equal_nan=True)
        return self.tensor if known else None

    def _same(self, values: np.ndarray, change: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        return values if self.current() is None else Array.of(change(self.tensor), values)

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        values = np.asarray(self).astype(dtype, *args, **kwargs)
        return self._same(values, lambda tensor: tensor.to(torch.from_numpy(np.empty(0, values.dtype)).dtype))

    def reshape(self, *shape: Any, **kwargs: Any) -> np.ndarray:
        values = np.asarray(self).reshape(*shape, **kwargs)
        return self._same(values, lambda tensor: tensor.reshape(values.shape))

    def transpose(self, *axes: Any) -> np.ndarray:
        values = np.asarray(self).transpose(*axes)
        order = np.arange(self.ndim).tolist()[::-1] if not axes else list(axes[0] if len(axes) == 1 else axes)
        return self._same(values, lambda tensor: tensor.permute(order))

    def copy(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return self._same(np.asarray(self).copy(), torch.clone)

    def clip(self, low: Any = None, high: Any = None, **kwargs: Any) -> np.ndarray:
        return self._same(np.asarray(self).clip(low, high), lambda tensor: tensor.clamp(low, high))


def _as_operand(value: Any) -> Any:
    if isinstance(value, Array):
        return value.tensor
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return value.item() if isinstance(value, np.generic) else value


@contextlib.contextmanager
def numpy_recorded(recorder: "Recorder") -> Iterator[None]:
    """Within it NumPy's draws are steps too, and torch.from_numpy knows arrays that depend on them."""
    laws = {"randn": "normal", "standard_normal": "normal", "normal": "normal"}
    laws |= dict.fromkeys(("rand", "random", "random_sample", "uniform"), "uniform")

    def drawing(name: str, draw: Callable[..., Any], is_global: bool) -> Callable[..., Any]:
        def drawn(*args: Any, **kwargs: Any) -> Any:
            values = draw(*args, **kwargs)
            if not isinstance(values, np.ndarray):
                return values
            plain = {"normal": (0.0, 1.0), "uniform": (0.0, 1.0)}[laws[name]]
            keys = {"normal": ("loc", "scale"), "uniform": ("low", "high")}.get(name)
            told = [*args[:2], *(plain[len(args[:2]) :])] if keys else plain
            low, high = (kwargs.get(key, value) for key, value in zip(keys or ("", ""), told, strict=True))
            tensor = torch.from_numpy(values)
            recorder.drawn(tensor, laws[name], float(low), float(high), by_numpy=is_global)
            return Array.of(tensor, values)

        return drawn

    class Proxy:
        """A generator of NumPy whose draws are steps."""

        def __init__(self, *args: Any, **kwargs: Any):
            self._generator = before["default_rng"](*args, **kwargs)

        def __getattr__(self, name: str) -> Any:
            found = getattr(self._generator, name)
            return drawing(name, found, False) if name in laws else found

    def method(name: str) -> Callable[..., Any]:
        return lambda self, *args, **kwargs: drawing(name, getattr(plain_state, name).__get__(self), False)(*args, **kwargs)

    def from_numpy(array: np.ndarray) -> torch.Tensor:
        known = array.current() if isinstance(array, Array) else None
        return plain_from_numpy(np.asarray(array)) if known is None else known

    plain_from_numpy, plain_state = torch.from_numpy, np.random.RandomState
    before = {name: getattr(np.random, name) for name in (*laws, "default_rng", "RandomState")}
    try:
        torch.from_numpy = from_numpy
        for name in laws:
            setattr(np.random, name, drawing(name, before[name], True))
        np.random.default_rng = Proxy
        np.random.RandomState = type("RandomState", (plain_state,), {name: method(name) for name in laws if name != "random"})
        yield
    finally:
        torch.from_numpy = plain_from_numpy
        for name, function in before.items():
            setattr(np.random, name, function)
