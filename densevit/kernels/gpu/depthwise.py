"""3x3 depth-wise convolution of (B, H, W, C) maps, padding 1. As `source/depthwise.cpp`, for any multiplier.

With a multiplier m output channel o reads input channel o // m, as a convolution of C groups and m * C channels does.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.depthwise_columns import COLUMNS, LINES, column_tile, downwards, halving
from densevit.kernels.gpu.rows import affine_gelu
from densevit.kernels.gpu.tiles import cdiv, channel_tile, gelu, launch, long, read, write

CELLS, CHANNELS, PER_THREAD = 8, 64, 8
"""Of a program that takes cell by cell; elements of a thread."""


def depthwise(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, weight: Tensor, bias: Tensor | None, addend: Tensor | None,
    y: Tensor, B: int, H: int, W: int, C: int, multiplier: int, stride: int, act: int,
) -> None:  # fmt: skip
    """With a multiplier GELU before the convolution takes a pass of its own: every cell is read in many places."""
    _, Ho, Wo, outputs = y.shape
    if multiplier == 1 and stride <= 2:
        width, warps = column_tile(C)
        across, down = cdiv(Wo, COLUMNS), cdiv(Ho, LINES)
        grid, maps = (B * down * across, cdiv(C, width)), (x, scale, shift, weight, bias, addend, y)
        kernel, sizes = (downwards, (H, W)) if stride == 1 else (halving, (H, W, Ho, Wo))
        launch(kernel, grid, (*maps, *sizes, down, across), (C, act, LINES, width), warps=warps)
    else:
        width = channel_tile(outputs, largest=CHANNELS)
        warps = max(1, CELLS * width // (32 * PER_THREAD))
        grid = cdiv(B * Ho * Wo, CELLS), cdiv(outputs, width)
        if scale is not None and shift is not None:
            inner = torch.empty_like(x)
            affine_gelu(x, scale, shift, inner, B * H * W, C)
            x = inner
        cells = (x, weight, bias, addend, y, B * Ho * Wo, H, W, Ho, Wo, C)
        launch(_cell_by_cell, grid, cells, (multiplier, stride, act, CELLS, width), warps=warps)


@triton.jit(do_not_specialize=["cells", "H", "W", "Ho", "Wo"])
def _cell_by_cell(
    x, weight, bias, addend, y, cells, H, W, Ho, Wo, C,
    MULTIPLIER: tl.constexpr, STRIDE: tl.constexpr, ACT: tl.constexpr, CELLS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    o = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    outputs = C * MULTIPLIER
    image, i, j = long(p // (Ho * Wo)), p // Wo % Ho * STRIDE, p % Wo * STRIDE
    there, inside = p < cells, o < outputs
    total = tl.zeros((CELLS, CHANNELS), dtype=tl.float32)
    for tap in tl.static_range(9):
        row, column = i + tap // 3 - 1, j + tap % 3 - 1
        valid = there & (row >= 0) & (row < H) & (column >= 0) & (column < W)
        at = ((image * H + row) * W + column)[:, None] * C + (o // MULTIPLIER)[None, :]
        total += read(x + at, valid[:, None] & inside[None, :]) * read(weight + tap * outputs + o, inside)[None, :]
    if bias is not None:
        total += read(bias + o, inside)[None, :]
    if ACT:
        total = gelu(total)
    at, mask = long(p[:, None]) * outputs + o[None, :], there[:, None] & inside[None, :]
    if addend is not None:
        total += read(addend + at, mask)
    write(y + at, total, mask)
