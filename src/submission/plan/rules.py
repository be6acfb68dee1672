"""Prove a plan's images: each depends on its own noise and answers alone, and constants treat all places of an image alike.

The steps are run on marks in the place of numbers. Of every value of a tensor it is known whose image it belongs to (its row),
which place of the image it belongs to, and by which constants it was told apart from others of its place (its channel). A cut,
a constant or a write that tells places apart could draw a picture; one that tells rows apart could choose among images.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import torch

from .operations import (
    CHANNELS,
    COPIES,
    CUTS,
    ELEMENTWISE,
    GROWTH,
    KERNEL,
    MOVES,
    PLANES,
    PRODUCTS,
    REDUCTIONS,
    BadPlan,
    Plan,
    Step,
)
from .replay import apply, as_index, resolve

RESHAPES = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
UNMOVED = {"clone", "detach", "alias", "lift_fresh"}
NONE, SEVERAL = -1, -2  # rows of what depends on no image, and of what depends on more than one
FACTOR = 1 << 20  # channels told apart by a cut or a write count in steps of it


@dataclass
class Marks:
    """Of a tensor: the row, place and channel of each of its values, int64 of its shape, NONE where it has none.

    like: a tensor without memory that has its shape, type and order. fixed: the values of a constant. past: row -> a digest of
    all that was done to its values.
    """

    rows: torch.Tensor
    places: torch.Tensor
    channels: torch.Tensor
    like: torch.Tensor
    fixed: torch.Tensor | None = None
    past: dict[int, str] = field(default_factory=dict)

    def each(self, change: Any, like: torch.Tensor | None = None) -> "Marks":
        """The marks of what a change of shape gives."""
        return Marks(change(self.rows), change(self.places), change(self.channels), self.like if like is None else like)


def check(plan: Plan, batch: int) -> int:
    """Prove a plan for `batch` images. Returns the network calls of each image. Raises BadPlan, which names the step."""
    return _Rules(plan, batch).run()


class _Rules:
    def __init__(self, plan: Plan, batch: int):
        self.plan, self.batch = plan, batch
        self.most = GROWTH * COPIES * batch * torch.Size(plan.shape).numel()
        self.draws: dict[int, int] = {}  # row -> how many so far
        self.mixed = ""  # where images were first mixed
        self.where = ""

    def run(self) -> int:
        values: dict[int, Any] = {}
        calls = 0
        for number, step in enumerate(self.plan.steps):
            self.where, self.number = f"step {number} ({step.op}, {step.at or 'no line'})", number
            try:
                args = self.marked(resolve(step.args, values, self.batch, "cpu"))
                kwargs = {name: self.marked(resolve(each, values, self.batch, "cpu")) for name, each in step.kwargs.items()}
                values[number] = self.remembered(step, args, kwargs, self.step(step, args, kwargs))
            except BadPlan:
                raise
            except (RuntimeError, TypeError, ValueError, IndexError, KeyError, NotImplementedError, AttributeError) as error:
                raise self.bad(f"the operation does not fit what it is given ({type(error).__name__})") from None
            if step.op == "network":
                calls += len(args[1].rows) // self.batch
        self.where = "the result"
        result = self.marked(resolve(self.plan.result, values, self.batch, "cpu"))
        shape = (self.batch, *self.plan.shape)
        if not isinstance(result, Marks) or tuple(result.like.shape) != shape or not result.like.is_floating_point():
            raise self.bad(f"no images {shape}")
        self.whole_batch(result, "the images")
        if len(set(result.past.values())) > 1:
            raise self.bad("its images are not all made in the same way")
        if len(shape) == 4 and len(result.places[0, 0].unique()) != shape[2] * shape[3]:
            raise self.bad("its pixels are not those of noise or of an answer")
        return calls

    def remembered(self, step: Step, args: list[Any], kwargs: dict[str, Any], result: Any) -> Any:
        """A step's result, with what was done to each row: so that all rows are treated alike, also one by one."""
        results = result if isinstance(result, list) else [result]
        given = [each for each in _flat([args, list(kwargs.values())]) if isinstance(each, Marks)]
        both = [each for each in (*given[:1], *results[:1]) if isinstance(each, Marks)]
        by_rows = any(each.rows.ndim and _varies(each.rows, 0) for each in both)  # so that its first dimension is the batch
        told = json.dumps(_without_rows(step, by_rows), sort_keys=True)
        for place, each in enumerate(results):
            for row in _thin(each.rows).unique().tolist() if isinstance(each, Marks) and each.fixed is None else ():
                if step.op == "put" and args[1].past and row not in args[1].past:
                    each.past[row] = args[0].past.get(row, "")  # another row was written to
                    continue
                before = [marks.past[row] for marks in given if row in marks.past]
                drawn = self.draws.get(row, 0) if step.op == "draw" else -1
                self.draws[row] = max(self.draws.get(row, 0), drawn + 1)
                text = f"{told} {0 if by_rows and step.name in CUTS else place} {drawn} {before}"
                each.past[row] = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        return result

    def bad(self, text: str) -> BadPlan:
        return BadPlan(f"{self.where}: {text}")

    def marked(self, value: Any) -> Any:
        """Arguments with the marks of constants in their place."""
        if isinstance(value, (list, tuple)):
            return [self.marked(each) for each in value]
        if not isinstance(value, torch.Tensor):
            return value
        if value.numel() > self.most:
            raise self.bad("a constant that is too large")
        none = torch.tensor(NONE).expand(value.shape)
        return Marks(none, none, none, value.to("meta"), value)

    # ----------------------------------------------------------------------------------------------------------- steps

    def step(self, step: Step, args: list[Any], kwargs: dict[str, Any]) -> Any:
        op, name = step.op, step.name
        if op == "draw":
            return self.fresh(torch.empty(args[1], dtype=args[2], device="meta"))
        if op == "labels":
            return self.fresh(torch.empty(self.batch, dtype=torch.int64, device="meta"))
        if op == "network":
            return self.call(args[1], kwargs)
        if op == "ask":
            return None
        if op == "constant":
            return self.as_image(args[0])
        given = [each for each in _flat([args, list(kwargs.values())]) if isinstance(each, Marks)]
        if all(each.fixed is not None for each in given):
            raise self.bad("computes with constants alone")
        like = apply(op, _like(args), _like(kwargs))
        for each in like if isinstance(like, (list, tuple)) else [like]:
            if each.numel() > self.most:
                raise self.bad("a result that is too large")
        if op == "get":
            return self.get(args, like)
        if op == "put":
            return self.put(args, like)
        if name == "index_put":
            return self.masked(args, like)
        if name in ELEMENTWISE or (name in ("max", "min") and op.endswith(".other")):
            return self.elementwise(given, like)
        if name in MOVES:
            return self.move(step, args, kwargs, like)
        if name in REDUCTIONS:
            return self.reduce(step, args, kwargs, like)
        if name in PLANES:
            return self.plane(name, args, like)
        if name in PRODUCTS:
            return self.product(args, like)
        raise self.bad("is not an operation of plans")

    def fresh(self, like: torch.Tensor) -> Marks:
        """The marks of noise or an answer: row by row, with the places and channels of an image where it is as large as one."""
        if not like.ndim or like.shape[0] % self.batch or like.shape[0] > COPIES * self.batch or like.numel() > self.most:
            raise self.bad(f"draws {tuple(like.shape)}, which is not as much for each image of the batch")
        rows = torch.arange(like.shape[0]) % self.batch
        channels, places = self.laid_out(like)
        return Marks(_spread(rows, like), places, channels, like)

    def laid_out(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Channels and places of what has rows in its first dimension: those of images (C, H, W), also flattened ones."""
        pixels = like.shape[-2] * like.shape[-1] if like.ndim == 4 else 0
        size = like[0].numel() if len(like) else 0
        whole = torch.Size(self.plan.shape).numel()
        if not pixels:
            pixels = torch.Size(self.plan.shape[1:]).numel() if size == whole else 1 if size <= CHANNELS else size
        index = torch.arange(size)
        parts = [(index // max(pixels, 1)), index % max(pixels, 1)]
        return tuple(_narrow(part.reshape(like.shape[1:])).expand(like.shape) for part in parts)

    def as_image(self, value: Marks) -> Marks:
        """A constant that is to be written into: it is laid out as an image, and must not differ from place to place."""
        channels, places = self.laid_out(value.like) if value.like.ndim else (value.channels, value.places)
        found = Marks(value.rows, places, channels, value.like)
        self.constant_alike(value.fixed, found)
        return found

    def call(self, x: Marks, given: dict[str, Any]) -> Marks:
        shape = (x.like.shape[0], *self.plan.shape) if x.like.ndim else ()
        if (
            tuple(x.like.shape) != shape
            or shape[0] % self.batch
            or shape[0] > COPIES * self.batch
            or not x.like.is_floating_point()
        ):
            raise self.bad(f"a call on {tuple(x.like.shape)}, expected whole batches of {self.plan.shape}")
        if x.fixed is not None:
            self.as_image(x)
        self.whole_batch(x, "what the network is given")
        answer = self.fresh(torch.empty(shape, dtype=given["precision"], device="meta"))
        for name, value in given.items():
            if name != "precision":
                if tuple(value.like.shape) not in ((shape[0],), (1,)):
                    raise self.bad(f"a {name} {tuple(value.like.shape)}, expected ({shape[0]},)")
                self.whole_batch(value, name)
        return answer

    def whole_batch(self, value: Marks, what: str) -> None:
        """Every row is of its own image, in the order of the batch, as often as there are copies."""
        if (_thin(value.rows) == SEVERAL).any():
            raise BadPlan(
                f"{self.mixed}: mixes images of the batch; each image is to be made from its own noise and answers alone"
            )
        rows = _thin(value.rows)
        wanted = (torch.arange(value.rows.shape[0]) % self.batch).reshape(-1, *[1] * (rows.ndim - 1))
        if ((rows != wanted) & (rows != NONE)).any():
            raise self.bad(f"{what} are not in the order of the batch")

    # ------------------------------------------------------------------------------------------------------- operations

    def elementwise(self, given: list[Marks], like: torch.Tensor) -> Marks:
        live = [each for each in given if each.fixed is None]
        spread = [each.each(lambda marks: marks.expand(like.shape)) for each in live]
        rows = self.together([each.rows for each in spread])
        places, channels = (_thin(part) for part in (spread[0].places, spread[0].channels))
        for each in spread[1:]:
            places = torch.where(places == NONE, _thin(each.places), places)
            channels = torch.where(channels == NONE, _thin(each.channels), channels)
        found = Marks(*(part.expand(like.shape) for part in (rows, places, channels)), like)
        for each in spread:
            for dim in range(like.ndim):
                told_apart = _varies(each.channels, dim) and not _varies(each.places, dim)
                if told_apart and _tells_places(found, dim):
                    raise self.bad("lays channels over the places of an image")
        for each in given:
            if each.fixed is not None:
                values = each.fixed.expand(like.shape) if each.fixed.ndim <= like.ndim else each.fixed
                found.channels = self.constant_alike(values, found)
        return found

    def constant_alike(self, values: torch.Tensor, found: Marks) -> torch.Tensor:
        """The channels of found once a constant of its shape has met it. BadPlan where it tells places or rows apart."""
        channels = found.channels
        for dim in range(values.ndim):
            if not _varies(values, dim):
                continue
            if _tells_places(found, dim):
                raise self.bad("a constant that differs from place to place of an image")
            if _varies(found.rows, dim):
                size = values.shape[dim]
                if size % self.batch or _varies(values.unflatten(dim, (-1, self.batch)), dim + 1):
                    raise self.bad("a constant that differs from image to image")
            elif self.batch > 1 or dim:
                index = _along(values.shape[dim], values.ndim - dim - 1)
                channels = channels if _varies(channels, dim) else channels + FACTOR * index
        return channels

    def together(self, rows: list[torch.Tensor]) -> torch.Tensor:
        """The rows of what is made of values of these rows."""
        found = _thin(rows[0])
        for other in map(_thin, rows[1:]):
            same = (found == other) | (other == NONE)
            found = torch.where(found == NONE, other, torch.where(same, found, SEVERAL))
        return self.noted(found)

    def noted(self, rows: torch.Tensor) -> torch.Tensor:
        if not self.mixed and (_thin(rows) == SEVERAL).any():
            self.mixed = self.where
        return rows

    def move(self, step: Step, args: list[Any], kwargs: dict[str, Any], like: Any) -> Any:
        """What only brings values elsewhere: the marks go the same way."""
        for each in _flat([args, list(kwargs.values())]):
            fixed = each.fixed if isinstance(each, Marks) and step.name not in ("index_select", "index") else None
            if fixed is not None and any(_varies(fixed, dim) for dim in range(fixed.ndim)):
                raise self.bad("a constant of several values is moved")
        kwargs = {key: value for key, value in kwargs.items() if not isinstance(value, torch.dtype)}
        if step.name in UNMOVED:
            return args[0].each(lambda marks: marks, like)
        parts = [self.moved(step.op, _pick(args, kind), _pick(kwargs, kind)) for kind in ("rows", "places", "channels")]
        if not isinstance(like, (list, tuple)):
            results = [Marks(*parts, like)]
        else:
            results = [Marks(*marks) for marks in zip(*parts, like, strict=True)]
        if step.name in CUTS:
            self.cut(step, args, kwargs, results)
        if step.name == "stack":  # what is put side by side is told apart, by hand
            dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % like.ndim
            results[0].channels = results[0].channels + FACTOR * _along(like.shape[dim], like.ndim - dim - 1)
        return results if isinstance(like, (list, tuple)) else results[0]

    def moved(self, op: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if op.partition(".")[0] in RESHAPES:  # whether the tensor can be seen so was asked of `like`
            op, args = "reshape.default", args[:2]
        found = apply(op, args, kwargs)
        return [_narrow(each) for each in found] if isinstance(found, (list, tuple)) else _narrow(found)

    def cut(self, step: Step, args: list[Any], kwargs: dict[str, Any], results: list[Marks]) -> None:
        """Refuse what tells places of an image apart. Parts that were put together are other channels."""
        if step.name == "index":
            dims = [dim for dim, index in enumerate(args[1]) if index is not None]
            if len(dims) != 1 or any(
                each.fixed is None or each.like.is_floating_point() for each in args[1] if each is not None
            ):
                raise self.bad("an index that is no list of numbers of one dimension")
            dim = dims[0]
        else:
            names = [each.name for each in _schema(step).arguments]
            named = {**dict(zip(names, args, strict=False)), **kwargs}
            dim = named.get("dim", 0)
            if step.name == "index_select" and named["index"].fixed is None:
                raise self.bad("an index that depends on noise or an answer")
        joined = step.name == "cat"
        subject = results[0] if joined else args[0]
        whole = step.name == "slice" and results[0].like.shape == args[0].like.shape
        dim %= max(subject.rows.ndim, 1)
        if not whole and _tells_places(subject, dim):
            raise self.bad("takes an image apart, or puts one together, by its places")
        if joined and not _varies(subject.rows, dim):
            subject.channels = subject.channels + FACTOR * _along(subject.rows.shape[dim], subject.rows.ndim - dim - 1)

    def get(self, args: list[Any], like: torch.Tensor) -> Marks:
        self.whole_places(args[0], args[1])
        return Marks(*(apply("get", _pick(args, kind), {}) for kind in ("rows", "places", "channels")), like)

    def put(self, args: list[Any], like: torch.Tensor) -> Marks:
        base, content, index = args
        self.whole_places(base, index)
        part = base.each(lambda marks: marks[as_index(index)])
        if content.fixed is not None:
            self.constant_alike(content.fixed.reshape(part.rows.shape), part)
        rows, places = (apply("put", _pick(args, kind), {}) for kind in ("rows", "places"))
        places = torch.where(places == NONE, base.places, places)
        channels = base.channels.clone()
        channels[as_index(index)] += FACTOR * (self.number + 1)
        return Marks(rows, places, channels, like)

    def whole_places(self, base: Marks, index: list[Any]) -> None:
        for dim, each in enumerate(index):
            size = base.rows.shape[dim]
            if each != [0, size, 1] and size > 1 and _tells_places(base, dim):
                raise self.bad("reads or writes a part of the places of an image")

    def masked(self, args: list[Any], like: torch.Tensor) -> Marks:
        """x[mask] = a number: the same as masked_fill."""
        base, indices, content = args[:3]
        if len(indices) != 1 or not isinstance(indices[0], Marks) or indices[0].like.dtype != torch.bool or any(args[3:]):
            raise self.bad("writes at places that depend on noise or an answer")
        if indices[0].like.shape != base.like.shape or content.like.numel() != 1:
            raise self.bad("writes at places that depend on noise or an answer")
        return self.elementwise([base, indices[0]], like)

    def reduce(self, step: Step, args: list[Any], kwargs: dict[str, Any], like: Any) -> Any:
        if step.op == "quantile":
            named = dict(zip(("self", "q", "dim", "keepdim"), args, strict=False))
            if isinstance(named["q"], Marks) and named["q"].fixed is None:
                raise self.bad("a quantile that depends on noise or an answer")
        else:
            named = {**dict(zip([each.name for each in _schema(step).arguments], args, strict=False)), **kwargs}
        x, dims = named["self"], named.get("dim")
        if x.fixed is not None:
            raise self.bad("computes with constants alone")
        dims = [dims] if isinstance(dims, int) else dims
        dims = [dim % max(x.rows.ndim, 1) for dim in dims] if dims else list(range(x.rows.ndim))
        parts = [self.noted(self.over(x.rows, dims))]
        parts += [_thin(part).amax(dim=dims, keepdim=True) if dims else part for part in (x.places, x.channels)]

        def shaped(each: torch.Tensor) -> Marks:
            kept = [part if each.ndim == part.ndim else part.squeeze(dims) for part in parts]
            return Marks(*(part.expand(each.shape) for part in kept), each)

        return [shaped(each) for each in like] if isinstance(like, (list, tuple)) else shaped(like)

    def plane(self, name: str, args: list[Any], like: Any) -> Any:
        """A filter, a change of size, a border: of whole images, by a small kernel of numbers."""
        x = args[0]
        first = like[0] if isinstance(like, (list, tuple)) else like
        if x.fixed is not None or x.rows.ndim != 4 or first.ndim != 4 or first.shape[0] != x.rows.shape[0]:
            raise self.bad("filters what are no images of the batch")
        if any(x.rows.shape[dim] > 1 and not _tells_places(x, dim) for dim in (2, 3)):
            raise self.bad("filters what are no images")
        if name == "convolution":
            kernels = [each for each in args[1:3] if each is not None]
            if any(each.fixed is None for each in kernels) or args[6]:
                raise self.bad("a filter that is not of numbers alone")
            height, width = kernels[0].like.shape[-2:]
            if max(height, width) > KERNEL or 4 * height > x.rows.shape[2] or 4 * width > x.rows.shape[3]:
                raise self.bad(f"a filter of {height}x{width} pixels, at most {KERNEL} and a quarter of the image are allowed")
        if name == "constant_pad_nd" and (min(args[1]) < 0 or len(args[1]) > 4 or max(args[1]) > KERNEL):
            raise self.bad("a border that cuts, or is wider than a filter")
        rows = self.noted(self.over(x.rows, [1, 2, 3])).expand(first.shape)
        channels, places = self.laid_out(first)
        found = Marks(rows, places, channels, first)
        return [found, Marks(found.rows, places, channels, like[1])] if isinstance(like, (list, tuple)) else found

    def product(self, args: list[Any], like: torch.Tensor) -> Marks:
        """A product of matrices: of constants over channels, or of two that depend on the same image."""
        a, b = args[:2]
        for each, dim in ((a, -1), (b, -2)):
            other = b if each is a else a
            if other.fixed is not None:
                if max(other.like.shape[-2:]) > CHANNELS:
                    raise self.bad(f"a matrix {tuple(other.like.shape)} of constants, at most {CHANNELS} channels are taken")
                if other.like.ndim == 3 and _varies(other.fixed, 0) and (_varies(each.rows, 0) or _tells_places(each, 0)):
                    raise self.bad("a matrix of constants that differs from image to image or place to place")
                if _tells_places(each, dim % each.rows.ndim):
                    raise self.bad("a matrix of constants over the places of an image")
        inner = [self.over(each.rows, [dim]) for each, dim in ((a, -1), (b, -2))]
        rows = self.together([part.expand(like.shape) for part in inner]).expand(like.shape)
        live, dim = (a, -1) if a.fixed is None else (b, -2)
        places = _narrow(live.places.amax(dim=dim, keepdim=True)).expand(like.shape)
        index = torch.arange(like.shape[dim])
        channels = index if dim == -1 else index.unsqueeze(1)
        return Marks(rows, places, channels.expand(like.shape), like)

    def over(self, rows: torch.Tensor, dims: list[int]) -> torch.Tensor:
        """The rows of a sum over some dimensions, which are kept."""
        rows = _thin(rows)
        most = rows.amax(dim=dims, keepdim=True) if dims else rows
        mixed = ((rows != most) & (rows != NONE)).to(torch.int8)
        return torch.where((mixed.amax(dim=dims, keepdim=True) if dims else mixed) > 0, SEVERAL, most)


# -------------------------------------------------------------------------------------------------------------- parts


def _varies(values: torch.Tensor, dim: int) -> bool:
    """Whether values differ along a dimension; nan is nan."""
    if values.shape[dim] < 2 or values.stride(dim) == 0:
        return False
    values = _thin(values)
    first = values.narrow(dim, 0, 1)
    return bool(((values != first) & ~((values != values) & (first != first))).any())


def _tells_places(marks: Marks, dim: int) -> bool:
    """Whether a dimension leads from place to place of one image."""
    if not _varies(marks.places, dim):
        return False
    size, rows, places = marks.rows.shape[dim], _thin(marks.rows), _thin(marks.places)
    here, there = (places.narrow(dim, start, size - 1) for start in (0, 1))
    moved = (here != there) & (here >= 0) & (there >= 0)
    if rows.shape[dim] > 1:
        here, there = (rows.narrow(dim, start, size - 1) for start in (0, 1))
        moved = moved & ((here == there) | (here < 0) | (there < 0))
    return bool(moved.any())


def _thin(marks: torch.Tensor) -> torch.Tensor:
    """Marks without what they repeat: of size 1 along each dimension that they are expanded over."""
    for dim in range(marks.ndim):
        marks = marks.narrow(dim, 0, 1) if marks.stride(dim) == 0 and marks.shape[dim] > 1 else marks
    return marks


def _narrow(marks: torch.Tensor) -> torch.Tensor:
    """The same marks, expanded over each dimension that they do not vary along."""
    shape = marks.shape
    for dim in range(marks.ndim):
        if marks.shape[dim] > 1 and not _varies(marks, dim):
            marks = marks.narrow(dim, 0, 1)
    return marks.expand(shape)


def _along(size: int, after: int) -> torch.Tensor:
    """The index along a dimension that has `after` dimensions behind it."""
    return torch.arange(size).reshape(-1, *[1] * after)


def _without_rows(step: Step, by_rows: bool) -> list[Any]:
    """The arguments of a step as they stand, but for references, and for which rows a part is of where it is one of rows."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {} if "step" in value else {key: plain(each) for key, each in value.items()}
        return [plain(each) for each in value] if isinstance(value, list) else value

    args = list(step.args)
    if by_rows and step.op in ("get", "put"):
        index = 1 + (step.op == "put")
        args[index] = args[index][1:]
        args = args[: index + 1]
    elif by_rows and step.name in CUTS | {"stack"} and not any(isinstance(each, int) and each for each in args[1:2]):
        args = []  # along the batch
    return [step.op, plain(args), plain(step.kwargs)]


def _spread(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Rows (N,) as those of a tensor (N, ...)."""
    return rows.reshape(-1, *[1] * (like.ndim - 1)).expand(like.shape) if like.ndim else rows.reshape(())


def _schema(step: Step) -> Any:
    name, _, overload = step.op.partition(".")
    return getattr(getattr(torch.ops.aten, name), overload)._schema


def _flat(value: Any) -> list[Any]:
    return [each for part in value for each in _flat(part)] if isinstance(value, (list, tuple)) else [value]


def _pick(value: Any, kind: str) -> Any:
    """Arguments with one kind of marks in the place of tensors; indices stay numbers."""
    if isinstance(value, Marks):
        index = value.fixed is not None and kind and not value.like.is_floating_point()
        return value.fixed if index else getattr(value, kind)
    if isinstance(value, (list, tuple)):
        return [_pick(each, kind) for each in value]
    return {key: _pick(each, kind) for key, each in value.items()} if isinstance(value, dict) else value


def _like(value: Any) -> Any:
    """Arguments with tensors without memory, which have their shape, type and order in memory."""
    if isinstance(value, Marks):
        return value.like
    if isinstance(value, (list, tuple)):
        return [_like(each) for each in value]
    return {key: _like(each) for key, each in value.items()} if isinstance(value, dict) else value
