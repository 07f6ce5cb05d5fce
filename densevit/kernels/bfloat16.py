"""bfloat16 autocast on a CPU without instructions for it: float32 numbers, of which training keeps bfloat16.

Only maps that this package's own steps keep are rounded: what PyTorch's operators keep they may compare or write into.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from densevit.kernels.operators import as_operator
from densevit.kernels.pages import kept_map

CPU_HAS_BFLOAT16 = torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
"""Whether this CPU has instructions for bfloat16; without, its matrix products take many times those in float32."""

_KEPT_NARROW = torch.float8_e5m2
"""The type of an autocast that is switched off says so: that is known to each thread, and to the compiler."""


def worthwhile_autocast(device: torch.device, *, keep_narrow: bool = True) -> AbstractContextManager[object]:
    """Autocast as it stands, except to bfloat16 on a CPU without instructions for it: there float32, by far faster.

    With `keep_narrow` the maps that are kept for the backward pass are then bfloat16.
    """
    if device.type != "cpu" or CPU_HAS_BFLOAT16 or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return nullcontext()
    if keep_narrow and torch.is_autocast_enabled("cpu"):
        return torch.autocast("cpu", dtype=_KEPT_NARROW, enabled=False)
    return torch.autocast("cpu", enabled=False)


def keeps_narrow() -> bool:
    """Whether this is a region of `worthwhile_autocast` that keeps maps in bfloat16."""
    return torch.get_autocast_dtype("cpu") == _KEPT_NARROW


def narrow(x: Tensor) -> Tensor:
    """What a step keeps of a map for its backward pass: it, or a copy in bfloat16; see `worthwhile_autocast`."""
    return _convert(x, x, torch.bfloat16) if keeps_narrow() and x.dtype == torch.float32 else x


def widened(x: Tensor, grad: Tensor) -> Tensor:
    """The map of which `narrow` was kept, in the type of the gradient that has come."""
    return x if x.dtype == grad.dtype else _convert(x, grad, grad.dtype)


@as_operator(
    "(Tensor x, Tensor at, ScalarType dtype) -> Tensor", lambda x, at, dtype: torch.empty(x.shape, dtype=dtype)
)
def converted_map(x: Tensor, at: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in another type; not before there is `at`: a compiler would widen in the forward pass, and keep that."""
    return kept_map(x.shape, dtype).copy_(x)


_convert = torch.ops.densevit.converted_map
"""The operator itself: what an operator keeps is also asked for where a compiler is at work and does not say so."""
