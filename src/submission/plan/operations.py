"""What a plan is: its steps, and the operations that are allowed in them."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch.utils._pytree import tree_leaves

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
FORMATS = ("contiguous_format", "preserve_format", "channels_last")
TEXTS = ("floor", "trunc", "none", "tanh", "linear", "lower", "higher", "midpoint", "nearest")
LAWS = ("normal", "uniform", "integers")

RULES = {  # which rule proves an operation of torch, aten.NAME.OVERLOAD
    "elementwise": """
        add sub rsub mul div pow neg abs sign sqrt rsqrt square exp expm1 exp2 log log1p log2 sin cos tan asin acos atan atan2
        sinh cosh tanh sigmoid relu silu gelu softplus erf reciprocal floor ceil round trunc frac fmod remainder clamp clamp_min
        clamp_max minimum maximum fmin fmax where lt le gt ge eq ne logical_and logical_or logical_not logical_xor bitwise_and
        bitwise_or bitwise_not isnan isinf isfinite nan_to_num lerp addcmul addcdiv hypot copysign _to_copy fill masked_fill
        zero hardtanh leaky_relu elu xlogy""",
    "move": """
        view _unsafe_view reshape permute transpose t unsqueeze squeeze expand clone detach alias flip roll repeat cat stack
        split split_with_sizes chunk unbind select slice pixel_shuffle pixel_unshuffle index_select index lift_fresh""",
    "reduce": "mean sum std var amax amin any all linalg_vector_norm max min median kthvalue logsumexp prod",
    "plane": """
        avg_pool2d max_pool2d_with_indices _adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d
        _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad2d replication_pad2d
        constant_pad_nd convolution""",
    "product": "mm bmm",
}
ALLOWED = {name: rule for rule, names in RULES.items() for name in names.split()}
CUTS = {"cat", "split", "split_with_sizes", "chunk", "unbind", "select", "slice", "index_select", "index"}  # part a dimension
PLACES_GIVEN = {"max", "min", "median", "kthvalue", "max_pool2d_with_indices"}  # as second results, which nobody may read
OWN = {"draw", "network", "labels", "ask", "get", "put", "constant", "quantile"}  # operations that are not torch's
QUESTIONS = ("_local_scalar_dense", "equal")

INSTEAD = {"sort": "torch.quantile or kthvalue", "topk": "torch.quantile or kthvalue", "addmm": "x @ w + b"}
INSTEAD |= {"index_put": "torch.where"}
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

    @cached_property
    def leaves(self) -> list[Any]:
        """All arguments, lists taken apart: numbers, texts, and tagged values such as {"step": 3}."""
        return tree_leaves([self.args, *self.kwargs.values()], is_leaf=lambda value: isinstance(value, dict))

    @property
    def uses(self) -> list[int]:
        """The steps whose results it takes."""
        return [leaf["step"] for leaf in self.leaves if isinstance(leaf, dict) and "step" in leaf]

    @property
    def numbers(self) -> set[str]:
        """Its constants: all values of tensors, and all numbers that are no dimensions, sizes or places."""
        found = set()
        for leaf in self.leaves:
            is_tensor = isinstance(leaf, dict) and "tensor" in leaf
            kinds = (int, float) if is_tensor or ALLOWED.get(self.name) == "elementwise" else float
            for value in leaf["values"] if is_tensor else [leaf]:
                is_number = isinstance(value, kinds) and not isinstance(value, bool)
                found |= {repr(value)} if is_number or (isinstance(value, dict) and "float" in value) else set()
        return found


@dataclass(frozen=True)
class Plan:
    """A sampler at one NFE. batch: the number of images that its steps are for; None for any number."""

    shape: tuple[int, ...]
    batch: int | None
    steps: tuple[Step, ...]
    result: dict[str, int]
    calls: int = 0  # of networks, for each image

    def count(self, *ops: str) -> int:
        """How many steps are of these operations."""
        return sum(step.op in ops for step in self.steps)

    @property
    def operations(self) -> int:
        """Steps that are neither draws nor calls."""
        return len(self.steps) - self.count("draw", "network", "labels")

    @cached_property
    def numbers(self) -> int:
        """Different constants."""
        return len(set().union(*(step.numbers for step in self.steps)))

    @property
    def asks_for_labels(self) -> bool:
        return self.count("labels") > 0

    @property
    def summary(self) -> str:
        """In words: 4 network calls, 25 operations, 12 numbers."""
        counts = {"network call": self.calls, "operation": self.operations, "number": self.numbers}
        return ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items())

    @cached_property
    def last_uses(self) -> dict[int, list[int]]:
        """Step -> the steps whose results nobody needs after it."""
        last: dict[int, int] = {}
        for number, step in enumerate(self.steps):
            last.update(dict.fromkeys([number, *step.uses], number))
        last.pop(self.result["step"], None)
        found = defaultdict(list)
        for number, user in last.items():
            found[user].append(number)
        return found
