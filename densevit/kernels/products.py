"""Matrix products of a map's many rows with a small matrix: linear layers and the gradients by what they are given.

On processors with AVX2 and no more a kernel does them: PyTorch's library takes up to 1.4 times as long there where one
side is narrow, as HLG's maps are (measured on an AMD Zen 3 alone). Everywhere else it is PyTorch's own product. No
gradients are recorded here.
"""

import torch
from torch import Tensor

from densevit.kernels.library import LANES, call, on_gpu, usable
from densevit.kernels.pages import new_map

IS_FASTER = torch.backends.cpu.get_cpu_capability() == "AVX2"
FEWEST, LARGEST = 1024, 2**20
"""Rows, and elements of the matrix, between which the kernel is faster: it has to put the matrix in order first."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.t() + bias of a map: (B, H, W, C) -> (B, H, W, width), contiguous; with gradients, PyTorch's own."""
    if torch.is_grad_enabled() or not _is_for_kernel(x, weight.t(), bias):
        return torch.nn.functional.linear(x, weight, bias)
    out = new_map(*x.shape[:-1], len(weight), like=x)
    _product(x.flatten(0, -2), weight.t(), out, bias, None)
    return out


def multiply(
    x: Tensor, matrix: Tensor, out: Tensor, *, bias: Tensor | None = None, addend: Tensor | None = None
) -> None:
    """out (rows, width) <- x (rows, depth) @ matrix + bias + addend; `addend` may be `out`."""
    if out.shape == (len(x), matrix.shape[1]) and _is_for_kernel(x, matrix, bias, out, addend):
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


def _is_for_kernel(
    x: Tensor, matrix: Tensor, bias: Tensor | None, out: Tensor | None = None, addend: Tensor | None = None
) -> bool:
    """Whether the kernel takes these and is the faster; what does not fit is PyTorch's, to say so."""
    if not IS_FASTER or on_gpu(x) or not usable(*(t for t in (x, matrix, bias, out, addend) if t is not None)):
        return False
    rows, width = x.shape[:-1].numel(), matrix.shape[1]
    fits = x.shape[-1] == matrix.shape[0] and (bias is None or bias.shape == (width,))
    if not fits or width % LANES or (addend is not None and addend.shape != (rows, width)):
        return False
    return rows >= FEWEST and 0 < matrix.numel() <= LARGEST


def _product(x: Tensor, matrix: Tensor, out: Tensor, bias: Tensor | None, addend: Tensor | None) -> None:
    assert out.is_contiguous()
    assert addend is None or addend.is_contiguous()
    transposed, sizes = not matrix.is_contiguous(), (len(x), *matrix.shape)
    matrix, bias = (matrix.t() if transposed else matrix).contiguous(), None if bias is None else bias.contiguous()
    call("product", x.contiguous(), matrix, bias, addend, out, *sizes, int(transposed))
