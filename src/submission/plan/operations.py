"""What a plan is: its steps, the operations that are allowed in them, and the bounds of them all, each with its reason."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

BYTES = 1 << 18  # of the text: a plan of the largest budget takes a tenth of it
OPERATIONS = 150  # for each call, and as many beside them: public samplers take 4 to 78 in all, a painter of pictures thousands
NUMBERS = 400  # different constants in all: schedules take up to 40, a 5x5 filter of all channels 225, a small picture 3,000
MOST_VALUES = 256  # of one constant, for the same filter
MOST_ROWS = 256  # of a plan whose steps are for each image of a batch
MOST_CALLS = 64  # a sampler of more is not a few-step one
KERNEL = 7  # pixels of a filter, and an image of four times as many: what is larger holds a picture
CHANNELS = 16  # of a matrix product, for the same reason: colours of four pixels are 12
GROWTH = 16  # numbers of one result for each number of an image: all states of a sampler of 16 calls, stacked
COPIES = 8  # of the batch, put together for one call
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
FORMATS = ("contiguous_format", "preserve_format", "channels_last")
TEXTS = ("floor", "trunc", "none", "tanh", "linear", "lower", "higher", "midpoint", "nearest")
FILTERS = 4  # changes of whole planes, for each call, and as many beside them: what is at a border can be told from the rest
LAWS = ("normal", "uniform", "integers")

_ELEMENTWISE = """
add sub rsub mul div pow neg abs sign sqrt rsqrt square exp expm1 exp2 log log1p log2 sin cos tan asin acos atan atan2
sinh cosh tanh sigmoid relu silu gelu softplus erf reciprocal floor ceil round trunc frac fmod remainder clamp clamp_min
clamp_max minimum maximum fmin fmax where lt le gt ge eq ne logical_and logical_or logical_not logical_xor bitwise_and
bitwise_or bitwise_not isnan isinf isfinite nan_to_num lerp addcmul addcdiv hypot copysign _to_copy fill masked_fill
zero hardtanh leaky_relu elu xlogy
"""
ELEMENTWISE = set(_ELEMENTWISE.split())
_MOVES = """
view _unsafe_view reshape permute transpose t unsqueeze squeeze expand clone detach alias flip roll repeat cat stack
split split_with_sizes chunk unbind select slice pixel_shuffle pixel_unshuffle index_select index lift_fresh
"""
MOVES = set(_MOVES.split())
CUTS = {"cat", "split", "split_with_sizes", "chunk", "unbind", "select", "slice", "index_select", "index"}  # part a dimension
_REDUCTIONS = """
mean sum std var amax amin any all linalg_vector_norm max min median kthvalue logsumexp prod quantile
"""
REDUCTIONS = set(_REDUCTIONS.split())
_PLANES = """
avg_pool2d max_pool2d_with_indices _adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d
_upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad2d replication_pad2d
constant_pad_nd convolution
"""  # of images: what they give at a place comes from places around it
PLANES = set(_PLANES.split())
PRODUCTS = {"mm", "bmm"}
PLACES_TOLD = {"max", "min", "median", "kthvalue", "max_pool2d_with_indices"}  # by their second results, which nobody may read
# the others are torch's own, aten.NAME.OVERLOAD
OWN = {"draw", "network", "labels", "ask", "get", "put", "constant", "quantile"}
QUESTIONS = ("_local_scalar_dense", "equal")
ALLOWED = ELEMENTWISE | MOVES | REDUCTIONS | PLANES | PRODUCTS | {"index_put"}

INSTEAD = {"sort": "torch.quantile or kthvalue", "topk": "torch.quantile or kthvalue", "addmm": "x @ w + b"}
INSTEAD |= dict.fromkeys(("native_layer_norm", "native_group_norm", "native_batch_norm"), "(x - mean) / std")


class BadPlan(ValueError):
    """A plan is refused. The text is one line that names the step and the rule."""


@dataclass(frozen=True)
class Step:
    """One operation: its name as torch has it, or one of OWN, its arguments, and the line of the sampler that asked for it."""

    op: str
    args: list[Any]
    kwargs: dict[str, Any]
    at: str

    @property
    def name(self) -> str:
        return self.op.partition(".")[0]


@dataclass(frozen=True)
class Plan:
    """A sampler at one NFE. batch: the number of images that its steps are for; None for any number."""

    shape: tuple[int, ...]
    batch: int | None
    steps: tuple[Step, ...]
    result: dict[str, int]
    last_uses: dict[int, list[int]] = field(default_factory=dict)
    calls: int = 0  # of networks, for each image

    @cached_property
    def operations(self) -> int:
        """Steps that are neither draws nor calls."""
        return sum(step.op not in ("draw", "network", "labels") for step in self.steps)

    @property
    def summary(self) -> str:
        """In words: 4 network calls, 25 operations, 12 numbers."""
        counts = {"network call": self.calls, "operation": self.operations, "number": self.numbers}
        return ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items())

    @cached_property
    def numbers(self) -> int:
        """Different constants."""
        return len({repr(number) for step in self.steps for number in numbers_of(step)})

    @cached_property
    def asks_for_labels(self) -> bool:
        return any(step.op == "labels" for step in self.steps)


def numbers_of(step: Step) -> Iterator[float | str]:
    """The constants of a step: all values of tensors, and all numbers that are no dimensions, sizes or places."""

    def within(value: Any, counts: bool) -> Iterator[float | str]:
        if isinstance(value, list):
            for each in value:
                yield from within(each, counts)
        elif isinstance(value, dict):
            if "tensor" in value:
                yield from within(value["values"], True)
            elif "float" in value:
                yield value["float"]
        elif isinstance(value, float) or (counts and isinstance(value, int) and not isinstance(value, bool)):
            yield value

    for value in [*step.args, *step.kwargs.values()]:
        yield from within(value, step.name in ELEMENTWISE)
