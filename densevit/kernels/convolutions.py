"""Gradients of full 3x3 convolutions, padding 1, stride 1 or 2, as matrix products of map lines as they lie.

On processors with AVX2 and no more, as the kernel of `densevit.kernels.products`: the library's gradients take 1.3
times as long there. No gradients are recorded here.

Shapes: B batch, H W map, C channels, C' those of the result; maps are (B, H, W, C), contiguous.
"""

import torch
from torch import Tensor

from densevit.kernels import products
from densevit.kernels.library import LANES, call, on_gpu, usable
from densevit.kernels.pages import new_map, new_map_like

Taps = list[list[tuple[int, int]]]


def takes(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether the kernels take this gradient, input and weight (C', C, 3, 3), and are the faster."""
    if (
        stride > 2
        or weight.shape[1:] != (x.shape[-1], 3, 3)
        or len(weight) % LANES
        or x.shape[-1] % LANES
        or not grad.numel()
    ):
        return False
    return products.IS_FASTER and not on_gpu(x) and usable(grad, x, weight)


def input_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """That by x, of which only the shape counts."""
    lines = padded(grad, before=2 - stride)
    grad_x = new_map_like(x)
    if stride == 1:
        _add_taps(lines, weight, grad_x, [[(2 - y, 2 - x) for x in range(3)] for y in range(3)])
        return grad_x
    # cells of x by the parity of row and column: each kind meets other taps, at a cell of `grad` and those after it
    for y, below in enumerate(([1], [2, 0])):
        for x_parity, right in enumerate(([1], [2, 0])):
            _add_taps(lines, weight, grad_x[:, y::2, x_parity::2], [[(ky, kx) for kx in right] for ky in below])
    return grad_x


def _add_taps(lines: Tensor, weight: Tensor, out: Tensor, taps: Taps) -> None:
    """out <- the sum over i, j of lines[:, y + i, x + j] times tap [i][j] of the weight."""
    if not out.numel():
        return
    by_tap = weight.permute(2, 3, 0, 1)
    matrix = torch.stack([by_tap[ky, kx] for line in taps for ky, kx in line])
    (image, line, cell, _), depth = lines.stride(), len(taps[0]) * len(weight)
    seen, lies = (image, line, cell, len(taps), line, depth), (out.shape[-1], *out.stride()[:3])
    call("convolution", lines, matrix, out, *out.shape[:3], *seen, *lies)


def weight_gradient(grad: Tensor, x: Tensor, stride: int) -> Tensor:
    """That by the weight: (C', C, 3, 3)."""
    C, channels, lines = x.shape[-1], grad.shape[-1], padded(x, before=1)
    image, line, cell, _ = lines.stride()
    total, steps = x.new_empty(channels, 3, 3, C), (image, stride * line, stride * cell)
    call("convolution_weight", lines, grad, total, *grad.shape[:3], *steps, 3, line, 3 * C, channels)
    return total.permute(0, 3, 1, 2)


def padded(x: Tensor, *, before: int) -> Tensor:
    """(B, H, W, C) with one more row and column of zeros after the last ones, and `before` so many before the first."""
    B, H, W, C = x.shape
    out = new_map(B, before + H + 1, before + W + 1, C, like=x)
    out[:, before:-1, before:-1] = x
    for edge in (-1, *range(before)):
        out[:, edge] = 0
        out[:, :, edge] = 0
    return out
