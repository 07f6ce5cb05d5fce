"""The kernels that work cell by cell or on 3x3 cells.

Shapes: B batch, H W map, C channels. Maps are (B, H, W, C), contiguous; scales and shifts (C,), one per channel.
A name that ends in `_` writes into its arguments.
"""

import torch
from torch import Tensor, nn

from densevit.kernels.library import call, on_gpu
from densevit.kernels.pages import new_map, new_map_like


def new_sums(count: int, x: Tensor) -> Tensor:
    """Zeros (count, C) for sums over the cells of `x`: float32 whatever its type."""
    return torch.zeros(count, x.shape[-1], dtype=torch.float32, device=x.device)


def add_rows(total: Tensor | None, x: Tensor) -> Tensor:
    """total + x.sum(dim=0) of (rows, C), in `total` itself where there is one.

    On a GPU by a kernel, several times as fast as torch's own, and float32.
    """
    if not on_gpu(x):
        return x.sum(dim=0) if total is None else total.add_(x.sum(dim=0))
    total = new_sums(1, x)[0] if total is None else total
    call("column_sums", x, total, *_rows(x))
    return total


def _rows(x: Tensor) -> tuple[int, int]:
    assert x.is_contiguous()
    return x.numel() // x.shape[-1], x.shape[-1]


def affine_gelu(x: Tensor, scale: Tensor, shift: Tensor, *, out: Tensor | None = None) -> Tensor:
    """GELU(x * scale + shift): what a batch norm does once its statistics are known, and GELU. `out` may be x."""
    out = new_map_like(x) if out is None else out
    assert out.is_contiguous()
    call("affine_gelu", x, scale, shift, out, *_rows(x))
    return out


def norm_add(x: Tensor, shift: Tensor, norm: nn.LayerNorm, residual: Tensor, out: Tensor) -> Tensor:
    """out <- norm(x + shift) + residual; `out` may be one of the two maps."""
    assert residual.is_contiguous()
    assert out.is_contiguous()
    rows, C = _rows(x)
    call("norm_add", x, shift, norm.weight, norm.bias, residual, None, out, rows, C, rows, float(norm.eps))
    return out


def add_gelu_norm_(x: Tensor, y: Tensor, scale: Tensor, shift: Tensor, norm: nn.LayerNorm) -> None:
    """x <- GELU(x + y * scale + shift), y <- norm(x)."""
    assert y.is_contiguous()
    call("add_gelu_norm", x, y, scale, shift, norm.weight, norm.bias, *_rows(x), float(norm.eps))


def add_norm_(x: Tensor, y: Tensor, norm: nn.LayerNorm) -> None:
    """x <- x + y, y <- norm(y)."""
    assert y.is_contiguous()
    call("add_norm", x, y, norm.weight, norm.bias, x, y, *_rows(x), float(norm.eps))


def conv_shape(x: Tensor, channels: int, stride: int) -> tuple[int, int, int, int]:
    """Of what a convolution that pads by half its kernel makes of a map."""
    return x.shape[0], -(-x.shape[1] // stride), -(-x.shape[2] // stride), channels


def depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    before: tuple[Tensor, Tensor] | None = None,
    addend: Tensor | None = None,
    stride: int = 1,
    act: bool = False,
) -> Tensor:
    """3x3 depth-wise convolution with `weight` (9, C), padding 1: (B, H, W, C) -> (B, ceil(H / s), ceil(W / s), C).

    `before` (scale, shift): of GELU(x * scale + shift) instead of x. `act`: GELU of the result; then `addend` is added.
    With `weight` (9, m * C) output channel o is one of input channel o // m; on a CPU m is 1 or 2, and 1 with `before`.
    """
    assert x.is_contiguous()
    assert addend is None or addend.is_contiguous()
    B, H, W, C = x.shape
    out = new_map(*conv_shape(x, weight.shape[1], stride), like=x)
    scale, shift = before or (None, None)
    sizes = (B, H, W, C, weight.shape[1] // C)
    call("depthwise", x, scale, shift, weight, bias, addend, out, *sizes, stride, int(act))
    return out


def taps(weight: Tensor) -> Tensor:
    """A depth-wise weight (C, 1, 3, 3) as `depthwise` takes it: (9, C)."""
    return weight[:, 0].permute(1, 2, 0).reshape(9, -1).contiguous()


def folded(norm: nn.BatchNorm2d, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm with running statistics after a convolution with `bias`."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    mean = norm.running_mean if bias is None else norm.running_mean - bias
    return scale, norm.bias - mean * scale
