"""Matrix products of a map's many rows with a small matrix: linear layers and the gradients by what they are given.

On processors with AVX2 and no more a kernel does them: PyTorch's library takes up to 1.4 times as long there where one
side is narrow, as HLG's maps are (measured on an AMD Zen 3 alone). So it does for float32 on GPUs like NVIDIA's H100,
by their tensor cores and about as exact (only infinities, and what rounds to them, give no number), unless PyTorch is
allowed TF32 (`torch.set_float32_matmul_precision`), which is faster and less exact. Everywhere else it is PyTorch's own
product. No gradients are recorded here.
"""

from functools import cache

import torch
from torch import Tensor

from densevit.kernels.library import INTERPRETED, LANES, call, on_gpu, usable
from densevit.kernels.operators import as_operator
from densevit.kernels.pages import new_gradient, new_map

IS_FASTER = torch.backends.cpu.get_cpu_capability() == "AVX2"
FEWEST, LARGEST = 768, 2**20
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
    """out (rows, width) <- x (rows, depth) @ matrix + bias + addend.

    `addend` may be `out` itself, but no other view of it.
    """
    if out.shape == (len(x), matrix.shape[1]) and _is_for_kernel(x, matrix, bias, out, addend):
        _product(x, matrix, out, bias, addend)
    elif bias is None:
        torch.mm(x, matrix, out=out) if addend is None else torch.addmm(addend, x, matrix, out=out)
    elif addend is out:
        torch.addmm(addend, x, matrix, out=out).add_(bias)
    else:
        torch.addmm(bias, x, matrix, out=out)
        if addend is not None:
            out.add_(addend)


def sum_of_products(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The products of all pairs, added up; as `multiply`."""
    (x, matrix), *others = pairs
    total = new_map(len(x), matrix.shape[1], like=x)
    multiply(x, matrix, total)
    for x, matrix in others:
        multiply(x, matrix, total, addend=total)
    return total


def add_outer(total: Tensor | None, rows: Tensor, x: Tensor) -> Tensor:
    """total + rows.t() @ x, in `total` itself where there is one: the gradient by a linear layer's weight.

    Of bfloat16 it is float32 on a GPU, as the weight is, where nothing is compiled.
    """
    if total is not None and total.dtype == x.dtype:
        return total.addmm_(rows.t(), x)
    if outer_dtype(x) != x.dtype and not torch.compiler.is_compiling():
        product = torch.mm(rows.t(), x, out_dtype=torch.float32)
    elif x.is_cpu:
        product = outer(rows, x)
    else:  # into a given map, which autocast leaves alone
        product = torch.mm(rows.t(), x, out=x.new_empty(rows.shape[1], x.shape[1]))
    return product if total is None else total.add_(product)


@as_operator("(Tensor rows, Tensor x) -> Tensor", lambda rows, x: x.new_empty(rows.shape[1], x.shape[1]))
def outer(rows: Tensor, x: Tensor) -> Tensor:
    """rows.t() @ x, on a CPU where maps are that the backward pass no longer needs: the system gives none for it."""
    return torch.mm(rows.t(), x, out=new_gradient(rows.shape[1], x.shape[1], like=x))


def outer_dtype(x: Tensor) -> torch.dtype:
    """Of what `add_outer` gives where it runs, or an operator that calls it."""
    return torch.float32 if x.device.type == "cuda" and x.dtype == torch.bfloat16 else x.dtype


def _is_for_kernel(
    x: Tensor, matrix: Tensor, bias: Tensor | None, out: Tensor | None = None, addend: Tensor | None = None
) -> bool:
    """Whether the kernel takes these and is the faster; what does not fit is PyTorch's, to say so."""
    tensors, gpu = [t for t in (x, matrix, bias, out, addend) if t is not None], on_gpu(x)
    if gpu and (any(t.dtype != torch.float32 for t in tensors) or torch.is_autocast_enabled(x.device.type)):
        return False
    if not (gpu or IS_FASTER) or not usable(*tensors) or (gpu and not _has_tensor_cores(x.device)):
        return False
    rows, width = x.shape[:-1].numel(), matrix.shape[1]
    fits = x.shape[-1] == matrix.shape[0] and (bias is None or bias.shape == (width,))
    if not fits or width % LANES or (addend is not None and addend.shape != (rows, width)):
        return False
    return rows >= FEWEST and 0 < matrix.numel() <= LARGEST


@torch.compiler.assume_constant_result
def _has_tensor_cores(device: torch.device) -> bool:
    """Whether this GPU's kernel for float32 is the faster one, and PyTorch's own is not less exact."""
    hopper = INTERPRETED or _capability(device)[0] == 9
    return hopper and torch.backends.cuda.matmul.fp32_precision not in ("tf32", "bf16")


_capability = cache(torch.cuda.get_device_capability)


def _product(x: Tensor, matrix: Tensor, out: Tensor, bias: Tensor | None, addend: Tensor | None) -> None:
    assert out.is_contiguous()
    assert addend is None or addend.is_contiguous()
    transposed, sizes = not matrix.is_contiguous(), (len(x), *matrix.shape)
    matrix, bias = (matrix.t() if transposed else matrix).contiguous(), None if bias is None else bias.contiguous()
    call("product", x.contiguous(), matrix, bias, addend, out, *sizes, int(transposed))
