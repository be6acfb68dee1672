"""The one counter of floating-point operations."""

from torch.utils import flop_counter


def flops_counted() -> flop_counter.FlopCounterMode:
    """A context that counts the operations of what is computed in it: `get_total_flops()` of it, multiply and add apart.

    Torch's counter imports its compiler when it is first called, seconds of work, only not to be compiled; this one does not.
    """
    mode = getattr(flop_counter, "_FlopCounterMode", flop_counter.FlopCounterMode)
    mode.__torch_dispatch__ = getattr(mode.__torch_dispatch__, "__wrapped__", mode.__torch_dispatch__)
    return flop_counter.FlopCounterMode(display=False)
