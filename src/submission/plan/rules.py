"""Prove a plan's images: each depends on its own noise and answers alone, and constants treat all places of an image alike.

The steps are run on marks in the place of numbers. Of every value of a tensor it is known whose image it belongs to (its row),
which place of the image it belongs to, and by which constants it was told apart from others of its place (its channel). A cut,
a constant or a write that tells places apart could draw a picture; one that tells rows apart could choose among images.
"""

import hashlib
import json
import math
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
    OPERATIONS,
    PLACES_TOLD,
    PLANES,
    PRODUCTS,
    REDUCTIONS,
    BadPlan,
    Plan,
    Step,
)
from .replay import apply, as_index, resolve

NONE, SEVERAL = -1, -2  # rows of what depends on no image, and of what depends on more than one


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

    def each(self, change: Any) -> "Marks":
        """The marks of what a change of shape gives, without `like`."""
        return Marks(change(self.rows), change(self.places), change(self.channels), self.like)


def check(plan: Plan, batch: int) -> int:
    """Prove a plan for `batch` images. Returns the network calls of each image. Raises BadPlan, which names the step."""
    return _Rules(plan, batch).run()


class _Rules:
    def __init__(self, plan: Plan, batch: int):
        self.plan, self.batch = plan, batch
        self.most = GROWTH * COPIES * batch * torch.Size(plan.shape).numel()
        calls = sum(step.op == "network" for step in plan.steps)
        self.work, self.most_work = 0, OPERATIONS * (calls + 1) * batch * torch.Size(plan.shape).numel() * (plan.batch or 1)
        self.draws: dict[int, int] = {}  # row -> how many so far
        self.mixed = ""  # where images were first mixed
        self.where = ""

    def run(self) -> int:
        values: dict[int, Any] = {}
        calls = 0
        for number, step in enumerate(self.plan.steps):
            self.where, self.number = f"step {number} ({step.op}, {step.at or 'no line'})", number
            try:
                args = self.marked(step.args, values)
                kwargs = {name: self.marked(each, values) for name, each in step.kwargs.items()}
                values[number] = self.remembered(step, args, kwargs, self.step(step, args, kwargs))
            except BadPlan:
                raise
            except Exception as error:  # torch raises of every kind
                raise self.bad(f"the operation does not fit what it is given ({type(error).__name__})") from None
            if step.op == "network":
                calls += len(args[1].rows) // self.batch
            for old in self.plan.last_uses.get(number, ()):
                values.pop(old, None)
        self.where = "the result"
        result = self.marked(self.plan.result, values)
        shape = (self.batch, *self.plan.shape)
        if not isinstance(result, Marks) or tuple(result.like.shape) != shape or not result.like.is_floating_point():
            raise self.bad(f"no images {shape}")
        self.whole_batch(result, "the images")
        if len(set(result.past.values())) > 1:
            raise self.bad("its images are not all made in the same way")
        places = result.places.flatten(2).sort(dim=2).values if len(shape) == 4 else torch.zeros(1, 1, 1)
        if places.min() < 0 or not (places.diff(dim=2) > 0).all():
            raise self.bad("its pixels are not those of noise or of an answer")
        self.image(result)
        return calls

    def remembered(self, step: Step, args: list[Any], kwargs: dict[str, Any], result: Any) -> Any:
        """A step's result, with what was done to each row: so that all rows are treated alike, also one by one."""
        results = result if isinstance(result, list) else [result]
        given = [each for each in _flat([args, list(kwargs.values())]) if isinstance(each, Marks)]
        both = [each for each in (*given[:1], *results[:1]) if isinstance(each, Marks)]
        by_rows = any(each.rows.ndim and varies(each.rows, 0) for each in both)  # so that its first dimension is the batch
        by_rows = by_rows and (step.name not in CUTS | {"stack"} or _cut_along(step) == 0)
        told = json.dumps(_without_rows(step, by_rows), sort_keys=True)
        for place, each in enumerate(results):
            for row in _distinct(each.rows) if isinstance(each, Marks) and each.fixed is None else ():
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

    def marked(self, value: Any, values: dict[int, Any]) -> Any:
        """Arguments as the operation takes them, with marks in the place of tensors."""
        if isinstance(value, list):
            return [self.marked(each, values) for each in value]
        if not isinstance(value, dict) or not value.keys() & {"step", "tensor"}:
            return self.resolved(value, values)
        if "step" in value:
            if value.get("out") and self.plan.steps[value["step"]].name in PLACES_TOLD:
                raise self.bad("reads the places of values, as max(dim) and max_pool2d give them")
            return self.resolved(value, values)
        if math.prod(self.resolved(value["shape"], values)) > self.most:
            raise self.bad("a constant that is too large")
        fixed = self.resolved(value, values)
        none = torch.full(fixed.shape, NONE)
        return Marks(none, none, none, fixed.to("meta"), fixed)

    def resolved(self, value: Any, values: dict[int, Any]) -> Any:
        try:
            return resolve(value, values, self.batch, "cpu")
        except (IndexError, KeyError):
            raise self.bad("refers to what no step gives") from None

    # ----------------------------------------------------------------------------------------------------------- steps

    def step(self, step: Step, args: list[Any], kwargs: dict[str, Any]) -> Any:
        op, name = step.op, step.name
        if op == "draw":
            last = torch.channels_last if args[5] else torch.contiguous_format
            return self.fresh(torch.empty(args[1], dtype=args[2], device="meta", memory_format=last))
        if op == "labels":
            return self.fresh(torch.empty(self.batch, dtype=torch.int64, device="meta"))
        if op == "network":
            return self.call(args[1], kwargs)
        if op == "ask":
            sizes = [each.like.numel() for each in args[1]]
            if sizes != [1] if args[0] != "equal" else len(sizes) != 2:
                raise self.bad("a question of another form")
            return None
        if op == "constant":
            return self.as_image(args[0])
        given = [each for each in _flat([args, list(kwargs.values())]) if isinstance(each, Marks)]
        if all(each.fixed is not None for each in given):
            raise self.bad("computes with constants alone")
        if name in ("unbind", "split", "chunk") and max(given[0].like.shape, default=0) > self.most // COPIES:
            raise self.bad("too many parts")
        like = apply(op, _like(args), _like(kwargs))
        for each in like if isinstance(like, (list, tuple)) else [like]:
            self.worked(each)
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
            return self.plane(step, args, kwargs, like)
        if name in PRODUCTS:
            return self.product(args, like)
        raise self.bad("is not an operation of plans")

    def worked(self, like: torch.Tensor) -> None:
        self.work += like.numel()
        if like.numel() > self.most or self.work > self.most_work:
            raise self.bad("a result that is too large")

    def fresh(self, like: torch.Tensor) -> Marks:
        """The marks of noise or an answer: row by row, with the places and channels of an image where it is as large as one."""
        if not like.ndim or like.shape[0] % self.batch or like.shape[0] > COPIES * self.batch or like.numel() > self.most:
            raise self.bad(f"draws {tuple(like.shape)}, which is not as much for each image of the batch")
        self.worked(like)
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
        parts = [parts[0], torch.full_like(index, NONE) if pixels == 1 else parts[1]]
        return tuple(part.reshape(like.shape[1:]).expand(like.shape).contiguous() for part in parts)

    def as_image(self, value: Marks) -> Marks:
        """A constant that is to be written into: it is laid out as an image, and must not differ from place to place."""
        channels, places = self.laid_out(value.like) if value.like.ndim else (value.channels, value.places)
        found = Marks(value.rows, places, channels, value.like)
        found.channels = self.constant_alike(value.fixed, found)
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
        self.image(self.as_image(x) if x.fixed is not None else x)
        self.whole_batch(x, "what the network is given")
        answer = self.fresh(torch.empty(shape, dtype=given["precision"], device="meta"))
        for name, value in given.items():
            if name != "precision":
                if tuple(value.like.shape) not in ((shape[0],), (1,)):
                    raise self.bad(f"a {name} {tuple(value.like.shape)}, expected ({shape[0]},)")
                self.whole_batch(value, name)
                rows = value.fixed.expand(shape[0]).reshape(-1, self.batch) if value.fixed is not None else None
                if rows is not None and varies(rows, 1):
                    raise self.bad(f"a {name} that differs from image to image")
        return answer

    def image(self, x: Marks) -> None:
        """Refuse what has been told apart by constants within a plane of an image."""
        if any(varies(x.channels, dim) for dim in range(2, x.channels.ndim)):
            raise self.bad("lays channels over the places of an image")

    def whole_batch(self, value: Marks, what: str) -> None:
        """Every row is of its own image, in the order of the batch, as often as there are copies."""
        if (value.rows == SEVERAL).any():
            raise BadPlan(
                f"{self.mixed}: mixes images of the batch; each image is to be made from its own noise and answers alone"
            )
        wanted = _spread(torch.arange(value.rows.shape[0]) % self.batch, value.rows)
        if ((value.rows != wanted) & (value.rows != NONE)).any():
            raise self.bad(f"{what} are not in the order of the batch")

    # ------------------------------------------------------------------------------------------------------- operations

    def elementwise(self, given: list[Marks], like: torch.Tensor) -> Marks:
        spread = [each.each(lambda marks: marks.expand(like.shape)) for each in given if each.fixed is None]
        found = Marks(self.together([each.rows for each in spread]), spread[0].places, spread[0].channels, like)
        for each in spread[1:]:
            found.places = self.laid_over(found.places, each.places)
            found.channels = _paired(found.channels, each.channels)
        for each in spread:
            self.not_over_places(each, found)
        for each in given:
            if each.fixed is not None:
                values = each.fixed.expand(like.shape) if each.fixed.ndim <= like.ndim else each.fixed
                found.channels = self.constant_alike(values, found)
        return found

    def laid_over(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """The places of two tensors that meet, value by value: they are the same, or a mirrored image's. Were they
        others, comparing could find places out: an image with the same one moved or turned, all pixels with all others."""
        if torch.equal(one, other) or (other == NONE).all():
            return one
        one, other = torch.where(one == NONE, other, one), torch.where(other == NONE, one, other)
        for whole, part in ((one, other), (other, one)):
            there = whole
            for dim in range(whole.ndim):
                there = there if varies(part, dim) else there.narrow(dim, 0, 1).expand(whole.shape)
            sides = [dim for dim in range(1, whole.ndim) if whole.shape[dim] % 2 == 0 and varies(there, dim)][-2:]
            alike = torch.zeros(whole.shape[:1] or (1,), dtype=torch.bool)
            for flips in ([], sides[:1], sides[1:], sides):
                alike |= (there.flip(flips) == part).reshape(len(alike), -1).all(dim=1)
            if alike.all():
                return whole
        raise self.bad("lays places of an image over other places")

    def not_over_places(self, each: Marks, found: Marks) -> None:
        """Refuse values that constants have told apart, and that belong to no place or one, over the places of an image."""
        for dim in range(each.rows.ndim if not torch.equal(each.places, found.places) else 0):
            if not varies(each.channels, dim) or not _tells_places(found, dim):
                continue
            line = torch.arange(each.rows.numel() // each.rows.shape[dim]).reshape(each.rows.select(dim, 0).shape)
            places = torch.zeros_like(each.places) if (each.places == NONE).any() else each.places
            group = _paired(_paired(line.unsqueeze(dim).expand(places.shape), places), each.rows).flatten()
            spans = []
            for marks in (each.channels, found.places):
                ends = [torch.zeros(int(group.max()) + 1, dtype=torch.int64) for _ in range(2)]
                for end, kind in zip(ends, ("amin", "amax"), strict=True):
                    end.scatter_reduce_(0, group, marks.flatten(), kind, include_self=False)
                spans.append(ends[0] != ends[1])
            if (spans[0] & spans[1]).any():
                raise self.bad("lays channels over the places of an image")

    def constant_alike(self, values: torch.Tensor, found: Marks) -> torch.Tensor:
        """The channels of found once a constant of its shape has met it. BadPlan where it tells places or rows apart."""
        channels = found.channels
        for dim in range(values.ndim):
            if not varies(values, dim):
                continue
            if _tells_places(found, dim):
                raise self.bad("a constant that differs from place to place of an image")
            if varies(found.rows, dim):
                size = values.shape[dim]
                if size % self.batch or varies(values.unflatten(dim, (-1, self.batch)), dim + 1):
                    raise self.bad("a constant that differs from image to image")
            else:
                channels = _paired(channels, values.nan_to_num().unique(return_inverse=True)[1].expand(channels.shape))
        return channels

    def together(self, rows: list[torch.Tensor]) -> torch.Tensor:
        """The rows of what is made of values of these rows."""
        found = rows[0]
        for other in rows[1:]:
            if torch.equal(found, other):
                continue
            same = (found == other) | (other == NONE)
            found = torch.where(found == NONE, other, torch.where(same, found, SEVERAL))
        return self.noted(found)

    def noted(self, rows: torch.Tensor) -> torch.Tensor:
        if not self.mixed and (rows == SEVERAL).any():
            self.mixed = self.where
        return rows

    def move(self, step: Step, args: list[Any], kwargs: dict[str, Any], like: Any) -> Any:
        """What only brings values elsewhere: the marks go the same way."""
        for each in _flat([args, list(kwargs.values())]):
            fixed = each.fixed if isinstance(each, Marks) and step.name not in ("index_select", "index") else None
            if fixed is not None and any(varies(fixed, dim) for dim in range(fixed.ndim)):
                raise self.bad("a constant of several values is moved")
        kwargs = {key: value for key, value in kwargs.items() if not isinstance(value, torch.dtype)}
        index = step.name in ("index_select", "index")
        parts = [
            apply(step.op, _pick(args, kind, index), _pick(kwargs, kind, index)) for kind in ("rows", "places", "channels")
        ]
        if not isinstance(like, (list, tuple)):
            results = [Marks(*parts, like)]
        else:
            results = [Marks(*marks) for marks in zip(*parts, like, strict=True)]
        if step.name in CUTS:
            self.cut(step, args, kwargs, results)
        if step.name == "stack":  # what is put side by side is told apart, by hand
            dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % like.ndim
            results[0].channels = _paired(results[0].channels, _along(results[0].channels, dim))
        return results if isinstance(like, (list, tuple)) else results[0]

    def cut(self, step: Step, args: list[Any], kwargs: dict[str, Any], results: list[Marks]) -> None:
        """Refuse what tells places of an image apart. Parts that were put together are other channels."""
        dim = _cut_along(step)
        if step.name == "index":
            given = [each for each in args[1] if each is not None]
            if len(given) != 1 or given[0].fixed is None or given[0].like.is_floating_point():
                raise self.bad("an index that is no list of numbers of one dimension")
        elif step.name == "index_select" and [*args[2:], *kwargs.values()][-1].fixed is None:
            raise self.bad("an index that depends on noise or an answer")
        joined = step.name == "cat"
        subject = results[0] if joined else args[0]
        whole = step.name == "slice" and results[0].like.shape == args[0].like.shape
        dim %= max(subject.rows.ndim, 1)
        if not whole and _tells_places(subject, dim):
            raise self.bad("takes an image apart, or puts one together, by its places")
        if joined:
            subject.channels = _paired(subject.channels, _along(subject.channels, dim))

    def get(self, args: list[Any], like: torch.Tensor) -> Marks:
        self.whole_places(args[0], args[1])
        return Marks(*(apply("get", _pick(args, kind), {}) for kind in ("rows", "places", "channels")), like)

    def put(self, args: list[Any], like: torch.Tensor) -> Marks:
        base, content, index = args
        self.whole_places(base, index)
        part = base.each(lambda marks: marks[as_index(index)])
        if content.fixed is not None:
            told = self.constant_alike(content.fixed.reshape(part.rows.shape), part)
        else:
            laid, told = content.each(lambda marks: marks.reshape(part.rows.shape)), content.channels.reshape(part.rows.shape)
            places = torch.where(laid.places == NONE, part.places, laid.places)
            self.not_over_places(laid, Marks(part.rows, places, told, like))
        rows, places = (apply("put", _pick(args, kind), {}) for kind in ("rows", "places"))
        places = torch.where(places == NONE, base.places, places)
        channels = base.channels.clone()
        channels[as_index(index)] = told + channels.max() + 2  # others than those beside them
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
        return self.elementwise([base, indices[0], content], like)

    def reduce(self, step: Step, args: list[Any], kwargs: dict[str, Any], like: Any) -> Any:
        if step.op == "quantile":
            named = dict(zip(("self", "q", "dim", "keepdim"), args, strict=False))
            if isinstance(named["q"], Marks) and named["q"].fixed is None:
                raise self.bad("a quantile that depends on noise or an answer")
        else:
            named = _named(step, args, kwargs)
        x, dims = named["self"], named.get("dim")
        if x.fixed is not None:
            raise self.bad("computes with constants alone")
        dims = [dims] if isinstance(dims, int) else dims
        dims = [dim % max(x.rows.ndim, 1) for dim in dims] if dims else list(range(x.rows.ndim))
        rows = self.noted(self.over(x.rows, dims))
        places, channels = x.places, x.channels
        for dim in dims:
            first = not _tells_places(Marks(x.rows, places.expand(x.rows.shape), channels, x.like), dim)
            places = places.narrow(dim, 0, 1) if first else places.amin(dim=dim, keepdim=True)
            channels = _folded(channels, dim)
        places = places if len(places.unique()) > 1 else torch.full_like(places, NONE)  # of the whole image

        def shaped(each: torch.Tensor) -> Marks:
            kept = [part if named.get("keepdim") else part.squeeze(dims) for part in (rows, places, channels)]
            return Marks(*(part.expand(each.shape) for part in kept), each)

        return [shaped(each) for each in like] if isinstance(like, (list, tuple)) else shaped(like)

    def plane(self, step: Step, args: list[Any], kwargs: dict[str, Any], like: Any) -> Any:
        """A filter, a change of size, a border: of whole images, by a small kernel of numbers. It must give an even plane where
        it is given one, so that nothing can be seen of where places are."""
        x, name = args[0], step.name
        named = _named(step, args, kwargs)
        padding = [named["padding"]] if isinstance(named.get("padding"), int) else named.get("padding") or []
        first = like[0] if isinstance(like, (list, tuple)) else like
        if x.fixed is not None or x.rows.ndim != 4 or first.ndim != 4 or first.shape[0] != x.rows.shape[0]:
            raise self.bad("filters what are no images of the batch")
        if any(x.rows.shape[dim] > 1 and not _tells_places(x, dim) for dim in (2, 3)):
            raise self.bad("filters what are no images")
        self.image(x)
        self.laid_over(self.laid_out(x.like)[1], x.places)
        if name in ("reflection_pad2d", "replication_pad2d"):
            if not all(0 <= each <= KERNEL for each in padding):
                raise self.bad("a border that cuts, or is wider than a filter")
        elif name == "constant_pad_nd" or any(padding) or named.get("ceil_mode") or named.get("divisor_override"):
            raise self.bad('a border of zeros tells places apart: use F.pad(x, ..., mode="reflect") first, and no padding')
        if name == "convolution":
            kernels = [named[each] for each in ("weight", "bias") if named[each] is not None]
            if any(each.fixed is None for each in kernels) or named["transposed"] or set(named["dilation"]) != {1}:
                raise self.bad("a filter that is not of numbers alone, side by side")
            height, width = kernels[0].like.shape[-2:]
            if max(height, width) > KERNEL or 4 * height > x.rows.shape[2] or 4 * width > x.rows.shape[3]:
                raise self.bad(f"a filter of {height}x{width} pixels, at most {KERNEL} and a quarter of the image are allowed")
        rows = self.noted(self.over(x.rows, [1, 2, 3])).expand(first.shape)
        channels, places = self.laid_out(first)
        found = Marks(rows, places, channels, first)
        return [found, found] if isinstance(like, (list, tuple)) else found

    def product(self, args: list[Any], like: torch.Tensor) -> Marks:
        """A product of matrices: of constants over channels, or of two that depend on the same image."""
        a, b = args[:2]
        for each, dim in ((a, -1), (b, -2)):
            other = b if each is a else a
            if other.fixed is not None:
                if max(other.like.shape[-2:]) > CHANNELS:
                    raise self.bad(f"a matrix {tuple(other.like.shape)} of constants, at most {CHANNELS} channels are taken")
                if other.like.ndim == 3 and varies(other.fixed, 0) and (varies(each.rows, 0) or _tells_places(each, 0)):
                    raise self.bad("a matrix of constants that differs from image to image or place to place")
                if _tells_places(each, dim % each.rows.ndim):
                    raise self.bad("a matrix of constants over the places of an image")
        live = [(each, dim) for each, dim in ((a, -1), (b, -2)) if each.fixed is None]
        if len(live) == 2 and (_tells_places(a, a.rows.ndim - 2) or _tells_places(b, b.rows.ndim - 1)):
            raise self.bad("a product of places of an image with others")
        rows = self.together([self.over(each.rows, [dim]).expand(like.shape) for each, dim in ((a, -1), (b, -2))])
        each, dim = live[0]
        places = each.places.narrow(dim, 0, 1).expand(like.shape) if len(live) == 1 else torch.full(like.shape, NONE)
        channels = _along(torch.empty(like.shape, device="meta"), dim)
        for each, dim in live:
            channels = _paired(channels, _folded(each.channels, dim).expand(like.shape))
        return Marks(rows, places, channels, like)

    def over(self, rows: torch.Tensor, dims: list[int]) -> torch.Tensor:
        """The rows of what is made of all along some dimensions, which are kept."""
        if not dims:
            return rows
        most = rows.amax(dim=dims, keepdim=True)
        mixed = ((rows != most) & (rows != NONE)).to(torch.int8).amax(dim=dims, keepdim=True)
        return torch.where(mixed > 0, SEVERAL, most)


# -------------------------------------------------------------------------------------------------------------- parts


def varies(values: torch.Tensor, dim: int) -> bool:
    """Whether values differ along a dimension; nan is nan."""
    if values.shape[dim] < 2 or not values.stride(dim):
        return False
    first = values.narrow(dim, 0, 1)
    return bool(((values != first) & ~((values != values) & (first != first))).any())


def _tells_places(marks: Marks, dim: int) -> bool:
    """Whether a dimension leads from place to place of one image; copies of whole images, also mirrored ones, do not."""
    if marks.rows.shape[dim] < 2:
        return False
    rows, places = (part.movedim(dim, 0).reshape(part.shape[dim], -1) for part in (marks.rows, marks.places))
    if not (places.amax(dim=0) > torch.where(places < 0, 1 << 40, places).amin(dim=0)).any():
        return False
    slices = [part.sort(dim=1).values.unique(dim=0) for part in (rows, rows * (1 << 40) + places)]
    return len(slices[1]) > len(slices[0])


def _distinct(rows: torch.Tensor) -> list[int]:
    return ((rows.flatten() - SEVERAL).bincount().nonzero().flatten() + SEVERAL).tolist()


def _paired(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Marks that differ wherever one of two does."""
    shape = one.shape
    if torch.equal(one, other) or other.min() == other.max():
        return one
    flat = [dim for dim in range(one.ndim) if not varies(one, dim) and not varies(other, dim)]
    for dim in flat:  # what they differ along is enough
        one, other = one.narrow(dim, 0, 1), other.narrow(dim, 0, 1)
    (_, first), (values, second) = (marks.unique(return_inverse=True) for marks in (one, other))
    return (first * len(values) + second).unique(return_inverse=True)[1].expand(shape)


def _folded(marks: torch.Tensor, dim: int) -> torch.Tensor:
    """One mark for all along a dimension, which is kept: another one wherever one of them is."""
    lines = marks.movedim(dim, -1)
    if not varies(marks, dim):
        return marks.narrow(dim, 0, 1)
    found = lines.flatten(0, -2).unique(dim=0, return_inverse=True)[1] if marks.ndim > 1 else torch.zeros(1, dtype=torch.int64)
    return found.reshape(lines.shape[:-1]).unsqueeze(dim)


def _along(like: torch.Tensor, dim: int) -> torch.Tensor:
    """The index along a dimension, in a tensor of this shape."""
    dim %= like.ndim
    return torch.arange(like.shape[dim]).reshape(-1, *[1] * (like.ndim - dim - 1)).expand(like.shape)


def _cut_along(step: Step) -> Any:
    """The dimension of an operation that cuts or puts together."""
    if step.name == "index":
        return next((dim for dim, index in enumerate(step.args[1]) if index is not None), None)
    return _named(step, step.args, step.kwargs).get("dim", 0)


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
    elif by_rows and step.name in CUTS | {"stack"}:
        args = []
    return [step.op, plain(args), plain(step.kwargs)]


def _spread(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Rows (N,) as those of a tensor (N, ...)."""
    return rows.reshape(-1, *[1] * (like.ndim - 1)).expand(like.shape) if like.ndim else rows.reshape(())


def _named(step: Step, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an operation of torch by their names."""
    name, _, overload = step.op.partition(".")
    schema = getattr(getattr(torch.ops.aten, name), overload)._schema
    return {**dict(zip([each.name for each in schema.arguments], args, strict=False)), **kwargs}


def _flat(value: Any) -> list[Any]:
    return [each for part in value for each in _flat(part)] if isinstance(value, (list, tuple)) else [value]


def _pick(value: Any, kind: str, index: bool = False) -> Any:
    """Arguments with one kind of marks in the place of tensors; with index, constants of whole numbers stay as they are."""
    if isinstance(value, Marks):
        number = index and value.fixed is not None and not value.like.is_floating_point()
        return value.fixed if number else getattr(value, kind).contiguous()
    if isinstance(value, (list, tuple)):
        return [_pick(each, kind, index) for each in value]
    return {key: _pick(each, kind, index) for key, each in value.items()} if isinstance(value, dict) else value


def _like(value: Any) -> Any:
    """Arguments with tensors without memory, which have their shape, type and order in memory."""
    if isinstance(value, Marks):
        return value.like
    if isinstance(value, (list, tuple)):
        return [_like(each) for each in value]
    return {key: _like(each) for key, each in value.items()} if isinstance(value, dict) else value
