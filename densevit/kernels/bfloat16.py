"""bfloat16 autocast on a CPU without instructions for it: float32 numbers, of which training keeps bfloat16.

Only maps that this package's own steps keep are rounded: what PyTorch's operators keep they may compare or write into.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from densevit.kernels.pages import kept_map

CPU_HAS_BFLOAT16 = torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
"""Whether this CPU has instructions for bfloat16; without, its matrix products take many times those in float32."""

_thread = threading.local()


def worthwhile_autocast(device: torch.device, *, keep_narrow: bool = True) -> AbstractContextManager[object]:
    """Autocast as it stands, except to bfloat16 on a CPU without instructions for it: there float32, by far faster.

    With `keep_narrow` the maps that are kept for the backward pass are then bfloat16, unless the model is compiled.
    """
    if device.type != "cpu" or CPU_HAS_BFLOAT16 or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return nullcontext()
    if keep_narrow and torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling():
        return _float32_kept_narrow()
    return torch.autocast("cpu", enabled=False)


@contextmanager
def _float32_kept_narrow() -> Iterator[None]:
    before, _thread.narrow = getattr(_thread, "narrow", False), True
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        _thread.narrow = before


def narrow(x: Tensor) -> Tensor:
    """What a step keeps of a map for its backward pass: it, or a copy in bfloat16; see `worthwhile_autocast`."""
    if torch.compiler.is_compiling() or x.dtype != torch.float32 or not getattr(_thread, "narrow", False):
        return x
    return kept_map(x.shape, torch.bfloat16).copy_(x)


def widened(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The map of which `narrow` was kept; `dtype` is its type."""
    return x if x.dtype == dtype else kept_map(x.shape, dtype).copy_(x)
