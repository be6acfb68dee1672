"""Random draws that do not depend on how a batch is divided into micro-batches or over processes."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

SIZED = (torch.rand, torch.randn)
LIKE = (torch.rand_like, torch.randn_like, torch.randint_like, torch.bernoulli)
IN_PLACE = (
    torch.Tensor.uniform_,
    torch.Tensor.normal_,
    torch.Tensor.bernoulli_,
    torch.Tensor.exponential_,
    torch.Tensor.random_,
    torch.Tensor.log_normal_,
)


class DrawAsOneBatch(TorchFunctionMode):
    """Inside the block, a draw for my rows is the same rows of the draw for the whole batch.

    A draw is taken to be one value per row when its first dimension is the number of my rows: torch.rand, randn, randint, their
    _like forms, bernoulli, the in-place draws of tensors, and dropout. Draws of other shapes are left alone, and so are those
    with a generator of their own. What is drawn inside a compiled network is out of reach.

    Args:
        rows: which rows of the whole batch this micro-batch is.
        total: the size of the whole batch.
    """

    def __init__(self, rows: slice, total: int):
        super().__init__()
        self.rows = rows
        self.total = total
        self.count = rows.stop - rows.start

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is None:
            if func in SIZED:
                size = kwargs.get("size", args[0] if args and isinstance(args[0], (tuple, list)) else args)
                if self._is_mine(size):
                    options = {key: value for key, value in kwargs.items() if key != "size"}
                    return func((self.total, *size[1:]), **options)[self.rows]
            elif func is torch.randint:
                return self._randint(args, kwargs)
            elif func in LIKE and self._is_mine(args[0].shape):
                whole = self._whole(args[0], 0.5)
                if func is torch.bernoulli:
                    whole[self.rows] = args[0]
                return func(whole, *args[1:], **kwargs)[self.rows]
            elif func in IN_PLACE and self._is_mine(args[0].shape):
                return args[0].copy_(func(self._whole(args[0]), *args[1:], **kwargs)[self.rows])
            elif func is F.dropout:
                return self._dropout(*args, **kwargs)
        return func(*args, **kwargs)

    def _is_mine(self, size: Any) -> bool:
        return len(size) > 0 and size[0] == self.count

    def _whole(self, mine: torch.Tensor, value: float = 0.0) -> torch.Tensor:
        """A tensor for the whole batch, of the type and memory layout of mine: the layout decides the order of the draws."""
        nhwc = mine.ndim == 4 and mine.is_contiguous(memory_format=torch.channels_last) and not mine.is_contiguous()
        return torch.full(
            (self.total, *mine.shape[1:]), value, dtype=mine.dtype, device=mine.device, requires_grad=False
        ).contiguous(memory_format=torch.channels_last if nhwc else torch.contiguous_format)

    def _randint(self, args: tuple, kwargs: dict) -> torch.Tensor:
        bounds = [arg for arg in args if not isinstance(arg, (tuple, list))]
        size = kwargs.get("size") or next(arg for arg in args if isinstance(arg, (tuple, list)))
        if not self._is_mine(size):
            return torch.randint(*args, **kwargs)
        options = {key: value for key, value in kwargs.items() if key != "size"}
        return torch.randint(*bounds, size=(self.total, *size[1:]), **options)[self.rows]

    def _dropout(self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        if not training or p in (0, 1) or not self._is_mine(input.shape):
            return F.dropout(input, p, training, inplace)
        kept = F.dropout(self._whole(input, 1.0), p)[self.rows] != 0
        return input * kept / (1 - p)
