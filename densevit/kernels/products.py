"""Matrix products of a map's many rows with a small matrix: linear layers and the gradients by what they are given.

On processors with AVX2 and no more a kernel does them: PyTorch's library takes up to 1.4 times as long there where one
side is narrow, as HLG's maps are. Everywhere else it is PyTorch's own product. No gradients are recorded here.
"""

import torch
from torch import Tensor

from densevit.kernels.library import LANES, call, on_gpu, usable
from densevit.kernels.pages import new_map

IS_FASTER = torch.backends.cpu.get_cpu_capability() == "AVX2"
LARGEST = 2**20
"""Elements of a matrix up to which the kernel is as fast as PyTorch's library or faster, measured on an AMD Zen 3."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.t() + bias of a map: (B, H, W, C) -> (B, H, W, width), contiguous."""
    if not _is_for_kernel(x, weight.t()):
        return torch.nn.functional.linear(x, weight, bias)
    out = new_map(*x.shape[:-1], len(weight), like=x)
    _product(x.flatten(0, -2), weight.t(), out, bias, None)
    return out


def multiply(
    x: Tensor, matrix: Tensor, out: Tensor, *, bias: Tensor | None = None, addend: Tensor | None = None
) -> None:
    """out (rows, width) <- x (rows, depth) @ matrix + bias + addend; `addend` may be `out`."""
    if _is_for_kernel(x, matrix):
        _product(x, matrix, out, bias, addend)
    elif addend is not None:
        torch.addmm(addend, x, matrix, out=out)
        if bias is not None:
            out.add_(bias)
    elif bias is not None:
        torch.addmm(bias, x, matrix, out=out)
    else:
        torch.mm(x, matrix, out=out)


def sum_of_products(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The products of all pairs, added up; as `multiply`."""
    (x, matrix), *others = pairs
    total = x.new_empty(len(x), matrix.shape[1])
    multiply(x, matrix, total)
    for x, matrix in others:
        multiply(x, matrix, total, addend=total)
    return total


def _is_for_kernel(x: Tensor, matrix: Tensor) -> bool:
    small = 0 < matrix.numel() <= LARGEST and matrix.shape[1] % LANES == 0
    return small and IS_FASTER and not on_gpu(x) and usable(x, matrix)


def _product(x: Tensor, matrix: Tensor, out: Tensor, bias: Tensor | None, addend: Tensor | None) -> None:
    assert out.is_contiguous()
    assert addend is None or addend.is_contiguous()
    transposed, sizes = not matrix.is_contiguous(), (len(x), *matrix.shape)
    matrix = (matrix.t() if transposed else matrix).contiguous()
    call("product", x.contiguous(), matrix, bias, addend, out, *sizes, int(transposed))
