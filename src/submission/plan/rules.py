"""Prove a plan's images: each depends on its own noise and answers alone, and constants treat all places of an image alike.

The steps are run on marks instead of numbers. Of every value of a tensor it is known whose image it belongs to (its row), which
place of the image it belongs to, and by which constants it was told apart from others of its place (its channel). A cut, a
constant or a write that tells places apart could draw a picture; one that tells rows apart could choose among images.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from .. import bounds
from .operations import ALLOWED, CUTS, BadPlan, Plan, Step
from .replay import Law, apply, arguments, as_index, overload_of, resolve
from .replay import constant as constant_of

NONE, SEVERAL = -1, -2  # rows of what depends on no image, and of what depends on more than one
OVER_PLACES = "lays channels over the places of an image"
BORDER = 'a border of zeros tells places apart: use F.pad(x, ..., mode="reflect") first, and no padding'
JOINS = CUTS | {"stack"}  # operations along one dimension


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

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Marks":
        """The marks of what a change of shape gives, without `like`."""
        return Marks(change(self.rows), change(self.places), change(self.channels), self.like)


def check(plan: Plan, batch: int) -> int:
    """Prove a plan for `batch` images. Returns the network calls of each image. Raises BadPlan, which names the step."""
    return _Proof(plan, batch).run()


class _Proof:
    def __init__(self, plan: Plan, batch: int):
        self.plan, self.batch = plan, batch
        size = batch * math.prod(plan.shape)
        self.most = bounds.RESULT_GROWTH * bounds.BATCH_COPIES * size
        self.work, self.most_work = 0, bounds.PLAN_OPERATIONS * (plan.count("network") + 1) * size * (plan.batch or 1)
        self.values: dict[int, list[Marks]] = {}
        self.draws: dict[int, int] = {}  # row -> how many so far
        self.mixed = self.where = ""  # where images were first mixed, and the step that is proved now

    def run(self) -> int:
        calls = 0
        for number, step in enumerate(self.plan.steps):
            self.where = f"step {number} ({step.op}, {step.at or 'no line'})"
            try:
                args, kwargs = arguments(step, self.resolved)
                self.values[number] = self.remembered(step, args, kwargs, self.step(step, args, kwargs))
            except BadPlan:
                raise
            except Exception as error:  # torch raises of every kind
                raise self.bad(f"the operation does not fit what it is given ({type(error).__name__})") from None
            if step.op == "network":
                calls += len(args[1].rows) // self.batch
            for old in self.plan.last_uses.get(number, ()):
                del self.values[old]
        self.where = "the result"
        result, shape = self.resolved(self.plan.result), (self.batch, *self.plan.shape)
        self.refuse(tuple(result.like.shape) != shape or not result.like.is_floating_point(), f"no images {shape}")
        self.whole_batch(result, "the images")
        self.refuse(len(set(result.past.values())) > 1, "its images are not all made in the same way")
        places = result.places.flatten(2).sort(dim=2).values if len(shape) == 4 else torch.zeros(1, 1, 1)
        self.refuse(places.min() < 0 or not (places.diff(dim=2) > 0).all(), "its pixels are not those of noise or of an answer")
        self.image(result)
        return calls

    def remembered(self, step: Step, args: list[Any], kwargs: dict[str, Any], results: list[Marks]) -> list[Marks]:
        """A step's results, with what was done to each row: so that all rows are treated alike, also one by one."""
        given = _marks_in(args, kwargs)
        by_rows = any(each.rows.ndim and varies(each.rows, 0) for each in (*given[:1], *results[:1]))  # its first dimension
        by_rows = by_rows and (step.name not in JOINS or _cut_along(step) == 0)  # is the batch
        text = json.dumps(_without_rows(step, by_rows), sort_keys=True)
        for place, each in enumerate(results):
            for row in _distinct(each.rows) if each.fixed is None else ():
                if step.op == "put" and args[1].past and row not in args[1].past:
                    each.past[row] = args[0].past.get(row, "")  # another row was written to
                    continue
                before = [marks.past[row] for marks in given if row in marks.past]
                drawn = self.draws.get(row, 0) if step.op == "draw" else -1
                self.draws[row] = max(self.draws.get(row, 0), drawn + 1)
                done = f"{text} {0 if by_rows and step.name in CUTS else place} {drawn} {before}"
                each.past[row] = hashlib.blake2b(done.encode(), digest_size=8).hexdigest()
        return results

    def bad(self, text: str) -> BadPlan:
        return BadPlan(f"{self.where}: {text}")

    def refuse(self, when: bool, text: str) -> None:
        if when:
            raise self.bad(text)

    def resolved(self, value: Any) -> Any:
        """Arguments as the operation takes them, with marks instead of tensors."""
        try:
            return resolve(value, self.values, self.batch, self.constant)
        except (IndexError, KeyError):
            raise self.bad("refers to what no step gives") from None

    def constant(self, value: dict[str, Any]) -> Marks:
        size = math.prod(resolve(value["shape"], {}, self.batch))
        self.refuse(size > self.most, "a constant that is too large")
        fixed = constant_of(value, self.batch)
        none = torch.full(fixed.shape, NONE)
        return Marks(none, none, none, fixed.to("meta"), fixed)

    # ----------------------------------------------------------------------------------------------------------- steps

    def step(self, step: Step, args: list[Any], kwargs: dict[str, Any]) -> list[Marks]:
        op, name = step.op, step.name
        if op == "draw":
            law = Law(*args)
            return [self.fresh(torch.empty(law.shape, dtype=law.dtype, device="meta", memory_format=law.format))]
        if op == "labels":
            return [self.fresh(torch.empty(self.batch, dtype=torch.int64, device="meta"))]
        if op == "network":
            return [self.call(args[1], **kwargs)]
        if op == "ask":
            sizes = [each.like.numel() for each in args[1]]
            self.refuse(sizes != [1] if args[0] != "equal" else len(sizes) != 2, "a question of another form")
            return []
        if op == "constant":
            return [self.as_image(args[0])]
        given = _marks_in(args, kwargs)
        self.refuse(all(each.fixed is not None for each in given), "computes with constants alone")
        parts = max(given[0].like.shape, default=0) if name in ("unbind", "split", "chunk") else 0
        self.refuse(parts > self.most // bounds.BATCH_COPIES, "too many parts")
        likes = tree_leaves(apply(op, *_only(lambda each: each.like, args, kwargs)))
        for each in likes:
            self.worked(each)
        rule = "elementwise" if op.endswith(".other") else {"get": "move", "put": "put", "quantile": "reduce"}.get(op)
        return getattr(self, rule or ALLOWED[name])(step, args, kwargs, likes)

    def worked(self, like: torch.Tensor) -> None:
        self.work += like.numel()
        self.refuse(like.numel() > self.most or self.work > self.most_work, "a result that is too large")

    def fresh(self, like: torch.Tensor) -> Marks:
        """The marks of noise or an answer: row by row, with the places and channels of an image where it is as large as one."""
        sound = like.ndim and self.are_batches(len(like)) and like.numel() <= self.most
        self.refuse(not sound, f"draws {tuple(like.shape)}, which is not as much for each image of the batch")
        self.worked(like)
        channels, places = self.laid_out(like)
        return Marks(self.in_turn(like), places, channels, like)

    def are_batches(self, count: int) -> bool:
        return count % self.batch == 0 and count <= bounds.BATCH_COPIES * self.batch

    def in_turn(self, like: torch.Tensor) -> torch.Tensor:
        """The rows of a tensor that has all images one after the other, as often as there are copies."""
        rows = torch.arange(like.shape[0]) % self.batch
        return rows.reshape(-1, *[1] * (like.ndim - 1)).expand(like.shape)

    def laid_out(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Channels and places of what has rows in its first dimension: those of images (C, H, W), also flattened ones."""
        pixels = like.shape[-2] * like.shape[-1] if like.ndim == 4 else 0
        size = like[0].numel() if len(like) else 0
        if not pixels:
            whole = size == math.prod(self.plan.shape)
            pixels = math.prod(self.plan.shape[1:]) if whole else 1 if size <= bounds.MATRIX_CHANNELS else size
        index = torch.arange(size)
        parts = [index // max(pixels, 1), torch.full_like(index, NONE) if pixels == 1 else index % max(pixels, 1)]
        return tuple(part.reshape(like.shape[1:]).expand(like.shape).contiguous() for part in parts)

    def as_image(self, value: Marks) -> Marks:
        """A constant that is to be written into: it is laid out as an image, and must not differ from place to place."""
        channels, places = self.laid_out(value.like) if value.like.ndim else (value.channels, value.places)
        found = Marks(value.rows, places, channels, value.like)
        found.channels = self.constant_alike(value.fixed, found)
        return found

    def call(self, x: Marks, precision: torch.dtype, **given: Marks) -> Marks:
        count = x.like.shape[0] if x.like.ndim else 0
        sound = tuple(x.like.shape) == (count, *self.plan.shape) and self.are_batches(count) and x.like.is_floating_point()
        self.refuse(not sound, f"a call on {tuple(x.like.shape)}, expected whole batches of {self.plan.shape}")
        self.image(self.as_image(x) if x.fixed is not None else x)
        self.whole_batch(x, "what the network is given")
        answer = self.fresh(torch.empty(x.like.shape, dtype=precision, device="meta"))
        for name, value in given.items():
            size = tuple(value.like.shape)
            self.refuse(size not in ((count,), (1,)), f"a {name} {size}, expected ({count},)")
            self.whole_batch(value, name)
            differs = value.fixed is not None and varies(value.fixed.expand(count).reshape(-1, self.batch), 1)
            self.refuse(differs, f"a {name} that differs from image to image")
        return answer

    def image(self, x: Marks) -> None:
        """Refuse what has been told apart by constants within a plane of an image."""
        self.refuse(any(varies(x.channels, dim) for dim in range(2, x.channels.ndim)), OVER_PLACES)

    def whole_batch(self, value: Marks, what: str) -> None:
        """Every row is of its own image, in the order of the batch, as often as there are copies."""
        if (value.rows == SEVERAL).any():
            self.where = self.mixed
            raise self.bad("mixes images of the batch; each image is to be made from its own noise and answers alone")
        moved = (value.rows != self.in_turn(value.rows)) & (value.rows != NONE)
        self.refuse(moved.any(), f"{what} are not in the order of the batch")

    # ------------------------------------------------------------------------------------------------------- operations

    def elementwise(self, step: Step, args: list[Any], kwargs: dict[str, Any], likes: list[torch.Tensor]) -> list[Marks]:
        given, like = _marks_in(args, kwargs), likes[0]
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
        return [found]

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
            for marks in (each.channels.flatten(), found.places.flatten()):
                ends = torch.zeros(int(group.max()) + 1, dtype=torch.int64)
                low, high = (ends.scatter_reduce(0, group, marks, kind, include_self=False) for kind in ("amin", "amax"))
                spans.append(low != high)
            self.refuse((spans[0] & spans[1]).any(), OVER_PLACES)

    def constant_alike(self, values: torch.Tensor, found: Marks) -> torch.Tensor:
        """The channels of found once a constant of its shape has met it. BadPlan where it tells places or rows apart."""
        channels = found.channels
        for dim in range(values.ndim):
            if not varies(values, dim):
                continue
            self.refuse(_tells_places(found, dim), "a constant that differs from place to place of an image")
            if varies(found.rows, dim):
                differs = values.shape[dim] % self.batch or varies(values.unflatten(dim, (-1, self.batch)), dim + 1)
                self.refuse(differs, "a constant that differs from image to image")
            else:
                channels = _paired(channels, values.nan_to_num().unique(return_inverse=True)[1].expand(channels.shape))
        return channels

    def together(self, rows: list[torch.Tensor]) -> torch.Tensor:
        """The rows of what is made of values of these rows."""
        found = rows[0]
        for other in rows[1:]:
            same = (found == other) | (other == NONE)
            found = torch.where(found == NONE, other, torch.where(same, found, SEVERAL))
        return self.noted(found)

    def over(self, rows: torch.Tensor, dims: list[int]) -> torch.Tensor:
        """The rows of what is made of all along some dimensions, which are kept."""
        if not dims:
            return rows
        most = rows.amax(dim=dims, keepdim=True)
        mixed = ((rows != most) & (rows != NONE)).any(dim=dims, keepdim=True)
        return self.noted(torch.where(mixed, SEVERAL, most))

    def noted(self, rows: torch.Tensor) -> torch.Tensor:
        if not self.mixed and (rows == SEVERAL).any():
            self.mixed = self.where
        return rows

    def move(self, step: Step, args: list[Any], kwargs: dict[str, Any], likes: list[torch.Tensor]) -> list[Marks]:
        """What only brings values elsewhere: the marks go the same way."""
        by_index = step.name in ("index_select", "index")
        given = _marks_in(args, kwargs)
        if by_index:
            sound = len(given) == 2 and given[1].fixed is not None and not given[1].like.is_floating_point()
            self.refuse(not sound, "an index that is no list of numbers of one dimension")
        for each in [] if by_index else given:
            several = each.fixed is not None and any(varies(each.fixed, dim) for dim in range(each.fixed.ndim))
            self.refuse(several, "a constant of several values is moved")
        if step.op == "get":
            self.whole_places(args[0], args[1])
        kwargs = {key: value for key, value in kwargs.items() if not isinstance(value, torch.dtype)}
        results = [Marks(*each) for each in zip(*_moved(step, args, kwargs), likes, strict=True)]
        if step.name in JOINS:
            self.cut(step, args, kwargs, results)
        return results

    def cut(self, step: Step, args: list[Any], kwargs: dict[str, Any], results: list[Marks]) -> None:
        """Refuse what tells places of an image apart. Parts that were put side by side are other channels."""
        dim, first = _cut_along(step), results[0]
        joined = step.name in ("cat", "stack")
        subject = first if joined else args[0]
        whole = step.name == "stack" or (step.name == "slice" and first.like.shape == args[0].like.shape)
        dim %= max(subject.rows.ndim, 1)
        self.refuse(not whole and _tells_places(subject, dim), "takes an image apart, or puts one together, by its places")
        if joined:
            along = torch.arange(first.like.shape[dim]).reshape(-1, *[1] * (first.like.ndim - dim - 1))
            first.channels = _paired(first.channels, along.expand(first.like.shape))

    def put(self, step: Step, args: list[Any], kwargs: dict[str, Any], likes: list[torch.Tensor]) -> list[Marks]:
        base, content, index = args
        self.whole_places(base, index)
        part = base.each(lambda marks: marks[as_index(index)])
        if content.fixed is not None:
            written = self.constant_alike(content.fixed.reshape(part.rows.shape), part)
        else:
            laid = content.each(lambda marks: marks.reshape(part.rows.shape))
            written, places = laid.channels, torch.where(laid.places == NONE, part.places, laid.places)
            self.not_over_places(laid, Marks(part.rows, places, written, base.like))
        [rows], [places], _ = _moved(step, args, kwargs)
        channels = base.channels.clone()
        channels[as_index(index)] = written + channels.max() + 2  # others than those beside them
        return [Marks(rows, torch.where(places == NONE, base.places, places), channels, likes[0])]

    def whole_places(self, base: Marks, index: list[Any]) -> None:
        for dim, each in enumerate(index):
            part = each != [0, base.rows.shape[dim], 1] and _tells_places(base, dim)
            self.refuse(part, "reads or writes a part of the places of an image")

    def reduce(self, step: Step, args: list[Any], kwargs: dict[str, Any], likes: list[torch.Tensor]) -> list[Marks]:
        named = _named(step, args, kwargs)
        depends = isinstance(named.get("q"), Marks) and named["q"].fixed is None
        self.refuse(depends, "a quantile that depends on noise or an answer")
        x, dims = named["self"], named.get("dim")
        self.refuse(x.fixed is not None, "computes with constants alone")
        dims = [dims] if isinstance(dims, int) else dims
        dims = [dim % max(x.rows.ndim, 1) for dim in dims] if dims else list(range(x.rows.ndim))
        rows, places, channels = self.over(x.rows, dims), x.places, x.channels
        for dim in dims:
            first = not _tells_places(Marks(x.rows, places.expand(x.rows.shape), channels, x.like), dim)
            places = places.narrow(dim, 0, 1) if first else places.amin(dim=dim, keepdim=True)
            channels = _folded(channels, dim)
        places = places if len(places.unique()) > 1 else torch.full_like(places, NONE)  # of the whole image
        kept = [part if named.get("keepdim") else part.squeeze(dims) for part in (rows, places, channels)]
        return [Marks(*(part.expand(like.shape) for part in kept), like) for like in likes]

    def plane(self, step: Step, args: list[Any], kwargs: dict[str, Any], likes: list[torch.Tensor]) -> list[Marks]:
        """A filter, a change of size, a border: of whole images, by a small kernel of numbers. It must give an even plane where
        it is given one, so that nothing can be seen of where places are."""
        x, first, name, named = args[0], likes[0], step.name, _named(step, args, kwargs)
        padding = [named["padding"]] if isinstance(named.get("padding"), int) else named.get("padding") or []
        sound = x.fixed is None and x.rows.ndim == first.ndim == 4 and first.shape[0] == x.rows.shape[0]
        self.refuse(not sound, "filters what are no images of the batch")
        self.refuse(any(x.rows.shape[dim] > 1 and not _tells_places(x, dim) for dim in (2, 3)), "filters what are no images")
        self.image(x)
        self.laid_over(self.laid_out(x.like)[1], x.places)
        if name in ("reflection_pad2d", "replication_pad2d"):
            sound = all(0 <= each <= bounds.FILTER_PIXELS for each in padding)
            self.refuse(not sound, "a border that cuts, or is wider than a filter")
        elif name == "constant_pad_nd" or any(padding) or named.get("ceil_mode") or named.get("divisor_override"):
            raise self.bad(BORDER)
        if name == "convolution":
            kernels = [named[each] for each in ("weight", "bias") if named[each] is not None]
            sound = (
                all(each.fixed is not None for each in kernels) and not named["transposed"] and set(named["dilation"]) == {1}
            )
            self.refuse(not sound, "a filter that is not of numbers alone, side by side")
            height, width = kernels[0].like.shape[-2:]
            if max(height, width) > bounds.FILTER_PIXELS or 4 * height > x.rows.shape[2] or 4 * width > x.rows.shape[3]:
                most = f"at most {bounds.FILTER_PIXELS} and a quarter of the image are allowed"
                raise self.bad(f"a filter of {height}x{width} pixels, {most}")
        rows, (channels, places) = self.over(x.rows, [1, 2, 3]).expand(first.shape), self.laid_out(first)
        return [Marks(rows, places, channels, first) for _ in likes]

    def product(self, step: Step, args: list[Any], kwargs: dict[str, Any], likes: list[torch.Tensor]) -> list[Marks]:
        """A product of matrices: of constants over channels, or of two that depend on the same image."""
        (a, b), like = args[:2], likes[0]
        for each, other, dim in ((a, b, -1), (b, a, -2)):
            if other.fixed is None:
                continue
            most, size = bounds.MATRIX_CHANNELS, tuple(other.like.shape)
            self.refuse(max(size[-2:]) > most, f"a matrix {size} of constants, at most {most} channels are taken")
            differs = other.like.ndim == 3 and varies(other.fixed, 0) and (varies(each.rows, 0) or _tells_places(each, 0))
            self.refuse(differs, "a matrix of constants that differs from image to image or place to place")
            self.refuse(_tells_places(each, dim % each.rows.ndim), "a matrix of constants over the places of an image")
        live = [(each, dim) for each, dim in ((a, -1), (b, -2)) if each.fixed is None]
        of_places = len(live) == 2 and (_tells_places(a, a.rows.ndim - 2) or _tells_places(b, b.rows.ndim - 1))
        self.refuse(of_places, "a product of places of an image with others")
        rows = self.together([self.over(each.rows, [dim]).expand(like.shape) for each, dim in live])
        (each, dim), *others = live
        places = torch.full(like.shape, NONE) if others else each.places.narrow(dim, 0, 1).expand(like.shape)
        channels = torch.arange(like.shape[dim]).reshape(-1, *[1] * (-1 - dim)).expand(like.shape)
        for each, dim in live:
            channels = _paired(channels, _folded(each.channels, dim).expand(like.shape))
        return [Marks(rows, places, channels, like)]


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
    for dim in [dim for dim in range(one.ndim) if not varies(one, dim) and not varies(other, dim)]:
        one, other = one.narrow(dim, 0, 1), other.narrow(dim, 0, 1)  # what they differ along is enough
    (_, first), (values, second) = (marks.unique(return_inverse=True) for marks in (one, other))
    return (first * len(values) + second).unique(return_inverse=True)[1].expand(shape)


def _folded(marks: torch.Tensor, dim: int) -> torch.Tensor:
    """One mark for all along a dimension, which is kept: another one wherever one of them is."""
    if not varies(marks, dim):
        return marks.narrow(dim, 0, 1)
    lines = marks.movedim(dim, -1)
    found = lines.flatten(0, -2).unique(dim=0, return_inverse=True)[1] if marks.ndim > 1 else torch.zeros(1, dtype=torch.int64)
    return found.reshape(lines.shape[:-1]).unsqueeze(dim)


def _cut_along(step: Step) -> Any:
    """The dimension of an operation that cuts or puts together."""
    if step.name == "index":
        return next((dim for dim, index in enumerate(step.args[1]) if index is not None), None)
    return _named(step, step.args, step.kwargs).get("dim", 0)


def _without_rows(step: Step, by_rows: bool) -> list[Any]:
    """The arguments of a step as they stand, but for references, and for which rows a part is of where it is one of rows."""
    args = list(step.args)
    if by_rows and step.op in ("get", "put"):
        index = 1 + (step.op == "put")
        args = [*args[:index], args[index][1:]]
    elif by_rows and step.name in JOINS:
        args = []
    is_reference = lambda value: isinstance(value, dict) and "step" in value  # noqa: E731
    return tree_map(lambda leaf: {} if is_reference(leaf) else leaf, [step.op, args, step.kwargs], is_leaf=is_reference)


def _named(step: Step, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an operation by their names."""
    own = step.op == "quantile"
    names = ("self", "q", "dim", "keepdim") if own else [each.name for each in overload_of(step.op)._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _marks_in(args: list[Any], kwargs: dict[str, Any]) -> list[Marks]:
    return [each for each in tree_leaves([args, kwargs]) if isinstance(each, Marks)]


def _only(change: Callable[[Marks], torch.Tensor], args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments with a tensor instead of each of their marks."""
    return tree_map_only(Marks, change, (args, kwargs))


def _moved(step: Step, args: list[Any], kwargs: dict[str, Any]) -> list[list[torch.Tensor]]:
    """The rows, places and channels of the results of an operation that only moves values; indices stay numbers."""

    def part(each: Marks, kind: str) -> torch.Tensor:
        is_index = step.name in ("index_select", "index") and each.fixed is not None and not each.like.is_floating_point()
        return each.fixed if is_index else getattr(each, kind).contiguous()

    kinds = ("rows", "places", "channels")
    return [tree_leaves(apply(step.op, *_only(lambda each, kind=kind: part(each, kind), args, kwargs))) for kind in kinds]
