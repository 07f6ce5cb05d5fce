"""bfloat16 autocast on a CPU without instructions for it: float32 numbers, of which training keeps bfloat16."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from densevit.kernels.pages import kept_map

CPU_HAS_BFLOAT16 = torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
"""Whether this CPU has instructions for bfloat16; without, its matrix products take many times those in float32."""
LEAST_ELEMENTS = 2**12
"""Smaller tensors (statistics, factors) are kept as they are."""


def worthwhile_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast as it stands, except to bfloat16 on a CPU without instructions for it: there float32, by far faster.

    Maps that training keeps are bfloat16 all the same, half the memory, but where a compiler decides what is kept.
    """
    if device.type != "cpu" or CPU_HAS_BFLOAT16 or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return nullcontext()
    if torch.is_autocast_enabled("cpu") and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _float32_kept_narrow()
    return torch.autocast("cpu", enabled=False)


@contextmanager
def _float32_kept_narrow() -> Iterator[None]:
    narrow = _Narrow()
    try:
        with torch.autograd.graph.saved_tensors_hooks(narrow.keep, _widen), torch.autocast("cpu", enabled=False):
            yield
    finally:
        narrow.kept.clear()  # the graph holds on to the hook


class _Narrow:
    """What is kept instead of a map; the same for all steps that keep it."""

    def __init__(self) -> None:
        self.kept: dict[Any, tuple[ReferenceType[Tensor], Tensor]] = {}

    def keep(self, x: Tensor) -> Tensor | tuple[Tensor]:
        if x.dtype != torch.float32 or x.numel() < LEAST_ELEMENTS or isinstance(x, nn.Parameter):
            return x
        place = (x.data_ptr(), x.shape, x.stride(), x._version)
        original, narrow = self.kept.get(place, (None, None))
        if narrow is None or original is None or original() is None:  # gone: another map may have its place
            narrow = _as_type(x, torch.bfloat16)
            self.kept[place] = ref(x), narrow
        return (narrow,)


def _widen(kept: Tensor | tuple[Tensor]) -> Tensor:
    return _as_type(kept[0], torch.float32) if isinstance(kept, tuple) else kept


def _as_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    return kept_map(x.shape, dtype).copy_(x) if x.is_contiguous() else x.to(dtype)
