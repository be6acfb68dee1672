"""Record what a sampler does to its noise and to its network's answers, as the steps of a plan.

`sample()` runs as it is. A network is one opaque operation whose answers are stand-ins; a mode of torch's dispatcher sees every
elementary operation of tensors below. One that has an input which depends on noise or on an answer becomes a step; everything
else is computed as usual, and where its result meets such a tensor it enters the step as a constant. Steps never write: a write
in place becomes an operation that gives the new content.

This folder and bounds.py stand alone (torch and numpy), since they are inside the sandbox too. Nothing here is trusted by the
grader: the steps are read with bounds (read.py), and what is believed is they alone.
"""

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .. import bounds
from .arrays import Array, numpy_recorded, quiet
from .operations import ALLOWED, OWN, Plan, Step
from .replay import as_index, replay, stand_in
from .rules import varies

ROWS = (5, 7)  # images of the two recordings: sizes that differ between them are multiples of the batch
HERE = os.path.dirname(os.path.abspath(__file__))
EMPTY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted")
SHAPES = (*EMPTY, "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")  # ask a tensor for no values
DRAWS = dict.fromkeys(("randn", "randn_like", "normal", "normal_"), ("normal", "mean", 0.0, "std", 1.0))
DRAWS |= dict.fromkeys(("rand", "rand_like", "uniform_"), ("uniform", "from", 0.0, "to", 1.0))
DRAWS |= dict.fromkeys(("randint", "randint_like"), ("integers", "low", 0, "high", None))
READERS = ("tolist", "data_ptr", "storage", "untyped_storage", "__dlpack__", "nonzero", "unique")
VALUE = "the value of a tensor that depends on noise or an answer"
OPERATORS = "add radd sub rsub mul rmul truediv rtruediv floordiv mod pow rpow neg abs lt le gt ge eq ne int float bool round"

Geometry = tuple[tuple[int, ...], tuple[int, ...], int]  # sizes, strides, offset
Reference = dict[str, int]  # {"step": 3}, or {"step": 3, "out": 1} for its second result


class NotRecorded(Exception):
    """A sampler does what a plan cannot hold. The text says what, and the line of the sampler's file."""


class OtherLists(NotRecorded):
    """Steps take as many tensors as there are images."""


class WrongOutput(ValueError):
    """What sample() gave is no batch of images."""


class Shown(float):
    """A number that `.item()` read off noise or an answer. It can be shown, but not computed with."""


for _name in OPERATORS.split():
    setattr(Shown, f"__{_name}__", lambda self, *_: self.refuse())


@dataclass
class _Held:
    """A storage that depends on noise or an answer: its whole content, and its views, by their geometry."""

    storage: torch.UntypedStorage  # kept, so that its address is not another's
    geometry: Geometry
    root: Reference
    views: dict[Geometry, Reference] = field(default_factory=dict)


class Recorder(TorchDispatchMode):
    """Records the steps of one call of sample(), of `rows` images of this shape.

    folder: where the sampler's files are; the lines that steps name are of these.
    """

    def __init__(self, rows: int, shape: tuple[int, ...], folder: str):
        super().__init__()
        self.rows, self.shape, self.folder = rows, shape, os.path.realpath(folder)
        self.steps: list[dict[str, Any]] = []
        self.calls = 0
        self.draws: list[torch.Tensor] = []
        self.fault, self.whole = "", True  # whole: whether all draws and calls are of whole batches
        self._held: dict[int, _Held] = {}
        self._born: dict[int, tuple[torch.UntypedStorage, Geometry]] = {}

    # ------------------------------------------------------------------------------------------------- what it is asked

    def refuse(self, what: str) -> NotRecorded:
        """The error for something that a plan cannot hold; kept, so that a sampler that catches it has gained nothing."""
        line = self.line()
        self.fault = self.fault or what + (f" ({line})" if line else "")
        return NotRecorded(self.fault)

    def line(self) -> str:
        """The innermost line of the sampler's own files that runs now: "custom_model.py, line 41"."""
        frame = sys._getframe(1)
        while frame is not None:
            name = os.path.realpath(frame.f_code.co_filename)
            if name.startswith(self.folder + os.sep) and os.path.dirname(name) != HERE and "-packages" not in name:
                return f"{os.path.relpath(name, self.folder)}, line {frame.f_lineno}"
            frame = frame.f_back
        return ""

    def depends(self, value: Any) -> bool:
        """Whether a value is a tensor that depends on noise or an answer."""
        if not isinstance(value, torch.Tensor) or torch._C._functorch.is_functorch_wrapped_tensor(value):
            return False  # what is within torch.func comes here again as plain tensors
        return _key(value) in self._held

    def call(self, prefix: str, x: torch.Tensor, **scalars: Any) -> torch.Tensor:
        """A network's forward: x (k B, ...), and by name timestep, condition, labels. Returns a stand-in for its answer."""
        if torch._C._functorch.is_functorch_wrapped_tensor(x):
            raise self.refuse("a network call inside of torch.func: call it on the whole batch")
        if tuple(x.shape[1:]) != self.shape:
            raise self.refuse(f"a network call on {tuple(x.shape)}, expected (B, {', '.join(map(str, self.shape))})")
        self.whole = self.whole and len(x) % self.rows == 0
        given = {name: torch.as_tensor(value).reshape(-1) for name, value in scalars.items() if value is not None}
        cast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        if cast == torch.float32 and x.dtype != cast:
            raise RuntimeError(f"the network computes in float32, and x is {x.dtype}")
        with quiet(), torch.no_grad(), torch.autocast("cpu", enabled=False):
            answer = stand_in(self.calls, x, given).to(cast)
        self.calls += 1
        self.emit("network", [prefix, x], {**given, "precision": cast}, [answer])
        return answer

    def emit(self, op: str, args: Sequence[Any], kwargs: dict[str, Any] | None = None, results: Sequence = ()) -> Reference:
        """Add a step and name its results; the reference of the first. What is encoded already stays as it is."""
        args, kwargs = tree_map(self.encode, (list(args), kwargs or {}))
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        self.steps.append({"op": op, "args": args, "kwargs": kwargs, "at": self.line()})
        number = len(self.steps) - 1
        for out, result in enumerate(results):
            self.name(result, {"step": number, "out": out} if out else {"step": number})
        return {"step": number}

    def name(self, tensor: torch.Tensor, reference: Reference) -> None:
        geometry = _geometry(tensor)
        held = self._held.setdefault(_key(tensor), _Held(tensor.untyped_storage(), geometry, reference))
        held.views[geometry] = reference

    def encode(self, value: Any) -> Any:
        """An argument of an operation as JSON has it."""
        if isinstance(value, Shown):
            value.refuse()
        if isinstance(value, torch.Tensor):
            return self.reference(value) if self.depends(value) else self.constant(value)
        if isinstance(value, (torch.dtype, torch.memory_format)):
            return {"dtype" if isinstance(value, torch.dtype) else "format": _name_of(value)}
        if isinstance(value, (torch.device, torch.layout, torch.Generator)):
            return None
        if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
            return {"float": str(value)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise self.refuse(f"an argument that is a {type(value).__name__}")

    def constant(self, tensor: torch.Tensor) -> dict[str, Any]:
        """A tensor that depends on nothing: one value along each dimension that it does not vary along, and for each whole copy
        of the batch. Raises NotRecorded where more values are left than a plan may hold."""
        with quiet():
            values, copies, count = tensor.detach(), False, tensor.shape[0] if tensor.ndim else 0
            if self.rows > 1 and count and count % self.rows == 0 and count <= bounds.BATCH_COPIES * self.rows:
                parts = values.unflatten(0, (-1, self.rows))
                copies = not varies(parts, 1)
                values = parts if copies else values
            for dim in range(values.ndim):
                values = values if varies(values, dim) or not values.shape[dim] else values.narrow(dim, 0, 1)
            if values.numel() > bounds.CONSTANT_VALUES:
                what = f"a constant of {values.numel():,} numbers, at most {bounds.CONSTANT_VALUES} can be held"
                raise self.refuse(f"{what}: pictures, noise that is drawn past torch and NumPy, values read off a tensor")
            listed = [self.encode(value) for value in values.flatten().tolist()]
        sizes = {"shape": list(tensor.shape), "sizes": list(values.shape), "copies": copies}
        return {"tensor": _name_of(tensor.dtype), "values": listed, **sizes}

    # ------------------------------------------------------------------------------------------------- views and writes

    def reference(self, tensor: torch.Tensor) -> Reference:
        """The step that a tensor is, made of its storage's content where it has changed since the view was taken."""
        held, geometry = self._held[_key(tensor)], _geometry(tensor)
        if geometry not in held.views:
            index = locate(geometry, held.geometry)
            if index is None:
                raise self.refuse("a view of a tensor that was written to, which is not a part of its rows and channels")
            held.views[geometry] = self.emit("get", [held.root, index, list(tensor.shape)])
        return held.views[geometry]

    def write(self, target: torch.Tensor, content: Reference) -> None:
        """From now on target, and what shares its storage, has the content of this step."""
        key, geometry = _key(target), _geometry(target)
        if key not in self._held:  # a tensor that depended on nothing: what it holds beside target is a constant
            storage, whole = self._born.get(key, (target.untyped_storage(), geometry))
            with quiet():
                before = torch.empty(0, dtype=target.dtype).set_(storage, whole[2], whole[0], whole[1])
            root = content if whole == geometry else self.emit("constant", [before])
            self._held[key] = _Held(storage, whole, root)
        held = self._held[key]
        if geometry != held.geometry:
            index = locate(geometry, held.geometry)
            if index is None:
                raise self.refuse("a write into a part of a tensor that is not some of its rows and channels")
            held.root = self.emit("put", [held.root, content, index])
            held.views = {held.geometry: held.root}
        else:
            held.root, held.views = content, {}
        held.views[geometry] = content

    # ------------------------------------------------------------------------------------------------------ operations

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        with torch._C.DisableTorchFunction():
            return self._dispatch(func, args, kwargs or {})

    def _dispatch(self, func: Any, args: tuple, kwargs: dict) -> Any:
        if torch.is_inference_mode_enabled():  # composite operations arrive whole there
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        name, schema = func._schema.name.partition("::")[2], func._schema
        if torch.Tag.nondeterministic_seeded in func.tags:
            return self._draw(func, name, args, kwargs)
        if name in SHAPES or not any(map(self.depends, tree_leaves((args, kwargs)))):
            return self._plain(func, name, args, kwargs)
        if torch.Tag.inplace_view in func.tags:
            before, result = self.reference(args[0]), func(*args, **kwargs)
            self.name(result, self.emit(f"{name.rstrip('_')}.{func._overloadname}", [before, *args[1:]]))
            return result
        if any(argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments):
            return self._in_place(func, name, args, kwargs)
        result = func(*args, **kwargs)
        if name == "_local_scalar_dense" or (schema.returns and all(each.type.kind() == "BoolType" for each in schema.returns)):
            if not isinstance(result, bool):  # a plan holds answers of yes or no
                raise self.refuse(f"{VALUE} is asked for")
            self.emit("ask", [name, args, result])
        else:
            results = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
            self.emit(f"{name}.{func._overloadname}", args, kwargs, results)
        return result

    def _plain(self, func: Any, name: str, args: tuple, kwargs: dict) -> Any:
        """What depends on nothing, done as usual. What a fresh tensor holds by chance is made zero."""
        result = func(*args, **kwargs)
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.layout == torch.strided:
                if name in EMPTY and value.numel():
                    with quiet():
                        value.zero_()
                self._born.setdefault(_key(value), (value.untyped_storage(), _geometry(value)))
        return result

    def _in_place(self, func: Any, name: str, args: tuple, kwargs: dict) -> Any:
        """An operation that writes: its form without writing as a step, and the target's new content."""
        name, overload, target = name.rstrip("_"), func._overloadname, args[0]
        if name == "index_put" and _is_mask(*args):  # x[mask] = a number
            name, overload, args = "masked_fill", "Tensor", (target, args[1][0], args[2].reshape(()))
        packet = getattr(torch.ops.aten, name, None)
        if any(argument.is_out for argument in func._schema.arguments):
            target = kwargs.pop("out", None)
            names = [argument.name for argument in func._schema.arguments if not argument.is_out]
            forms = {form: [each.name for each in getattr(packet, form)._schema.arguments] for form in packet.overloads()}
            overload = next((form for form in forms if forms[form] == names), "")
        if not isinstance(target, torch.Tensor) or not hasattr(packet, overload or "-"):
            raise self.refuse(f"{name} writes in a way that a plan has no form of")
        with quiet():
            value = args[1] if name == "copy" else getattr(packet, overload)(*args, **kwargs)
        step = self.encode(value) if name == "copy" else self.emit(f"{name}.{overload}", args, kwargs, [value])
        with quiet():
            if name == "copy" and value.shape != target.shape:
                value, step = value.expand(target.shape), self.emit("expand.default", [step, list(target.shape)])
            if value.shape != target.shape:
                raise self.refuse(f"{name} changes the shape of what it writes to")
            if value.dtype != target.dtype:
                value, step = value.to(target.dtype), self.emit("_to_copy.default", [step], {"dtype": target.dtype})
            if value.stride() != target.stride() and target.is_contiguous():
                step = self.emit("clone.default", [step], {"memory_format": torch.contiguous_format})
            if "tensor" in step:
                step = self.emit("constant", [step])
            self.write(target, step)
            target.copy_(value)
        return target

    def _draw(self, func: Any, name: str, args: tuple, kwargs: dict) -> torch.Tensor:
        """Noise: its law and shape are a step, whichever generator was asked for."""
        result = func(*args, **kwargs)
        if name not in DRAWS:
            raise self.refuse(f"{name}: noise is drawn by randn, rand, randint, normal or uniform")
        given = {**dict(zip((each.name for each in func._schema.arguments), args, strict=False)), **kwargs}
        law, first, low, second, high = DRAWS[name]
        low, high = given.get(first, low), given.get(second, high)
        if not all(isinstance(value, (int, float)) for value in (low, high)):
            raise self.refuse(f"{name} with a mean or deviation that is a tensor: scale what randn gives")
        self.drawn(result, law, low, high, writes=name.endswith("_"))
        return result

    def drawn(
        self, result: torch.Tensor, law: str, low: float, high: float, writes: bool = False, by_numpy: bool = False
    ) -> None:
        """A draw as a step. low, high: mean and deviation of normal ones; by_numpy: of NumPy's global generator."""
        last = result.ndim == 4 and not result.is_contiguous() and result.is_contiguous(memory_format=torch.channels_last)
        with quiet():
            self.draws.append(result.clone())
        self.whole = self.whole and bool(result.shape) and result.shape[0] % self.rows == 0
        step = self.emit("draw", [law, list(result.shape), result.dtype, low, high, last, by_numpy])
        self.write(result, step) if writes else self.name(result, step)


class Functions(TorchFunctionMode):
    """What the dispatcher does not see, or sees in pieces: values that leave torch, and quantiles."""

    def __init__(self, recorder: Recorder):
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, recorder, name = kwargs or {}, self.recorder, getattr(func, "__name__", "")
        first = args[0] if args else None
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Shown):
                value.refuse()
        if name in ("tensor", "as_tensor", "asarray") and isinstance(first, Array) and first.current() is not None:
            result = first.tensor
            return result.to(kwargs["dtype"]) if kwargs.get("dtype") else result.clone() if name == "tensor" else result
        if not recorder.depends(first):
            return func(*args, **kwargs)
        if name in READERS:
            raise recorder.refuse(f"{VALUE} is asked for by {name}()")
        if name in ("numpy", "__array__"):
            with quiet():
                return Array.of(first, first.detach().numpy())
        shown = name == "item" and first.dtype != torch.bool
        with quiet() if shown or name in ("__repr__", "__str__", "__format__", "quantile") else contextlib.nullcontext():
            result = func(*args, **kwargs)
        if shown:
            result, where = Shown(result), recorder.line()

            def refuse() -> None:
                raise recorder.refuse(f"{VALUE} was asked for at {where}, and is computed with")

            result.refuse = refuse
        if name == "quantile":
            given = dict(zip(("input", "q", "dim", "keepdim"), args, strict=False)) | kwargs
            q = given["q"].item() if isinstance(given["q"], torch.Tensor) and given["q"].ndim == 0 else given["q"]
            options = [given.get("dim"), given.get("keepdim", False), given.get("interpolation", "linear")]
            recorder.emit("quantile", [given["input"], q, *options], {}, [result])
        return result


# ---------------------------------------------------------------------------------------------------------- recording


def record(
    sample: Callable[..., Any],
    recorder_of: Callable[[Recorder | None], None],
    nfe: int,
    shape: tuple[int, ...],
    folder: str,
    classes: int = 0,
    sizes: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """The plans of a sampler at this NFE as JSON has them: one for any number of images, or one for each of some numbers.

    Args:
        sample: the model's sample().
        recorder_of: called with the recorder before each recording, so that networks answer to it, and with None at the end.
        shape: of one image.
        folder: where the sampler's files are.
        classes: how many there are, where sample() takes labels.
        sizes: numbers of images that a plan is made for, where none is for all.

    Recorded twice, with batches of ROWS images: sizes that differ are multiples of the batch. Where the number of steps
    differs, or of the tensors that one takes, the sampler has a loop over images: its plans are of the sizes, or of one image
    where it draws or calls its network image by image. Raises NotRecorded, also where a plan does not give the images of
    sample() to the last bit, and whatever sample() raises.
    """

    def once(rows: int) -> tuple[Recorder, torch.Tensor]:
        recorder = Recorder(rows, shape, folder)
        recorder_of(recorder)
        try:
            images = _run(sample, recorder, nfe, labels_of(rows, classes))
        except Exception:
            if recorder.fault:
                raise NotRecorded(recorder.fault) from None
            raise
        finally:
            recorder_of(None)
        if recorder.fault:
            raise NotRecorded(recorder.fault)
        return recorder, images

    def merged(first: Recorder, second: Recorder, images: torch.Tensor, batch: int | None) -> dict[str, Any]:
        if len(first.steps) != len(second.steps):
            raise NotRecorded("its steps differ from call to call")
        steps = [_merge(a, b, first.rows, second.rows, b["at"]) for a, b in zip(first.steps, second.steps, strict=True)]
        plan = Plan(shape, batch, tuple(Step(**step) for step in steps), second.reference(images))
        known = all(step.name in ALLOWED or step.op in OWN for step in plan.steps)  # others are refused by name
        if known and not _repeats(plan, second.draws, images, labels_of(second.rows, classes)):
            raise NotRecorded("its plan does not give the images of sample() to the last bit")
        return {"plan": 1, "shape": list(shape), "batch": batch, "steps": steps, "result": plan.result}

    (first, _), (second, images) = (once(rows) for rows in ROWS)
    if len(first.steps) == len(second.steps):
        with contextlib.suppress(OtherLists):
            return [merged(first, second, images, None)]
    plans = []
    for rows in sizes or ROWS[:1] if first.whole and second.whole else (1,):
        try:
            (first, _), (second, images) = once(rows), once(rows)
        except NotRecorded:
            raise
        except Exception as error:
            raise NotRecorded(f"its steps are those of one batch, and it takes no batch of {rows} ({error})") from None
        plans.append(merged(first, second, images, rows))
    return plans


def _run(sample: Callable[..., Any], recorder: Recorder, nfe: int, labels: torch.Tensor | None) -> torch.Tensor:
    """The images of one recording. Raises NotRecorded where they depend on nothing."""
    label_kwargs = {} if labels is None else {"labels": labels}
    if label_kwargs:
        recorder.emit("labels", [], {}, [labels])
    shape = (recorder.rows, *recorder.shape)
    with numpy_recorded(recorder), Functions(recorder), recorder:
        images = sample(shape, num_inference_timesteps=nfe, verbose=False, **label_kwargs)
    if not isinstance(images, torch.Tensor):
        raise WrongOutput(f"sample() gave {type(images).__name__}, expected a tensor")
    if tuple(images.shape) != shape:
        raise WrongOutput(f"sample() gave images {tuple(images.shape)}, expected {shape}")
    if not recorder.depends(images):
        raise recorder.refuse("the images depend on no noise and no answer")
    recorder.reference(images)  # a last step, where the images were written to
    return images


def _merge(a: Any, b: Any, rows_a: int, rows_b: int, at: str) -> Any:
    """What two recordings of rows_a and rows_b images have in common, as JSON has it."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return {key: b[key] if key == "at" else _merge(a[key], b[key], rows_a, rows_b, at) for key in a}
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            raise OtherLists(f"a list that differs in length from call to call ({at})")
        return [_merge(x, y, rows_a, rows_b, at) for x, y in zip(a, b, strict=True)]
    if type(a) is type(b) and a == b:
        return a
    if type(a) is int and type(b) is int and a * rows_b == b * rows_a and a % rows_a == 0:
        return {"batch": a // rows_a}
    raise NotRecorded(f"a step or number that differs from call to call, or with the size of the batch ({at})")


def labels_of(rows: int, classes: int) -> torch.Tensor | None:
    """The classes 1..classes in turn, for this many images; None where there are none."""
    return torch.arange(rows) % classes + 1 if classes else None


def _repeats(plan: Plan, draws: list[torch.Tensor], images: torch.Tensor, labels: torch.Tensor | None) -> bool:
    """Whether a plan gives the images of its recording bit for bit, of the same draws, stand-ins and classes."""

    def call(number: int, _: str, x: torch.Tensor, given: dict[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        return stand_in(number, x, given).to(dtype)

    again = replay(plan, len(images), call, lambda number, _: draws[number], labels)
    return again.dtype == images.dtype and torch.equal(again.nan_to_num(), images.nan_to_num())


def as_bytes(plan: dict[str, Any]) -> bytes:
    return json.dumps(plan, allow_nan=False, separators=(",", ":")).encode()


# -------------------------------------------------------------------------------------------------------------- parts


def locate(view: Geometry, base: Geometry) -> list[Any] | None:
    """Where a view lies in its base: for each dimension of the base a number, or [start, stop, step]. None where it is no such
    part, or has its dimensions in another order."""
    with quiet():
        places = torch.full((max(_end(view), _end(base)),), -1)
        inside = torch.arange(math.prod(base[0])).reshape(base[0])
        places.as_strided(*base).copy_(inside)
        found = places.as_strided(*view).flatten()
        index: list[Any] = []
        for along in torch.unravel_index(found, base[0]):
            first, *others = along.unique().tolist()
            index.append([first, others[-1] + 1, others[0] - first] if others else first)
        return index if torch.equal(inside[as_index(index)].flatten(), found) else None


def _end(geometry: Geometry) -> int:
    sizes, strides, offset = geometry
    return offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1


def _is_mask(target: torch.Tensor, indices: Any, value: Any, accumulate: bool = False) -> bool:
    """Whether x[indices] = value is that of a mask of x's shape and of one number."""
    if len(indices) != 1 or accumulate or value.numel() != 1 or not isinstance(indices[0], torch.Tensor):
        return False
    return indices[0].dtype == torch.bool and indices[0].shape == target.shape


def _key(tensor: torch.Tensor) -> int:
    with quiet():
        return tensor.untyped_storage()._cdata


def _geometry(tensor: torch.Tensor) -> Geometry:
    return tuple(tensor.shape), tuple(tensor.stride()), tensor.storage_offset()


def _name_of(kind: torch.dtype | torch.memory_format) -> str:
    return str(kind).removeprefix("torch.")
