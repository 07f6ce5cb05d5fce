"""3x3 depth-wise convolution of (B, H, W, C) maps, padding 1. As `source/depthwise.cpp`, but for a multiplier.

With a multiplier m output channel o reads input channel o // m, as a convolution of C groups and m * C channels does.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.rows import affine_gelu
from densevit.kernels.gpu.tiles import cdiv, channel_tile, gelu, launch, long, read, write

COLUMNS = 16
"""Cells of a row that one program takes."""
LINES = 14
"""Rows that one program goes down."""


def depthwise(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, weight: Tensor, bias: Tensor | None, addend: Tensor | None,
    y: Tensor, B: int, H: int, W: int, C: int, stride: int, act: int,
) -> None:  # fmt: skip
    """GELU before the convolution takes a pass of its own: every cell is read three times."""
    if scale is not None and shift is not None:
        inner = torch.empty_like(x)
        affine_gelu(x, scale, shift, inner, B * H * W, C)
        x = inner
    _, Ho, Wo, outputs = y.shape
    width = channel_tile(outputs)
    if stride == 1 and outputs == C:
        across, down = cdiv(W, COLUMNS), cdiv(H, LINES)
        arguments = (x, weight, bias, addend, y, H, W, C, down, across)
        launch(_downwards, (B * down * across, cdiv(C, width)), arguments, (act, LINES, COLUMNS, width))
    else:
        grid = cdiv(B * Ho * Wo, COLUMNS), cdiv(outputs, width)
        cells = (x, weight, bias, addend, y, B * Ho * Wo, H, W, Ho, Wo, C)
        launch(_cell_by_cell, grid, cells, (outputs // C, stride, act, COLUMNS, width))


@triton.jit
def read_row(x, row, column, c, H, W, C):
    """Cells `column` of one row of an image, as float32; zero outside it."""
    mask = ((column >= 0) & (column < W) & (row >= 0) & (row < H))[:, None] & (c < C)[None, :]
    return read(x + (row * W + column)[:, None] * C + c[None, :], mask)


@triton.jit
def _three(weight, line, c, C, left, middle, right):
    """What a row of input gives to a row of output: one line of the kernel."""
    at, inside = weight + line * 3 * C + c, c < C
    return (
        left * read(at, inside)[None, :]
        + middle * read(at + C, inside)[None, :]
        + right * read(at + 2 * C, inside)[None, :]
    )


@triton.jit(do_not_specialize=["H", "W", "down", "across"])
def _downwards(
    x, weight, bias, addend, y, H, W, C, down, across,
    ACT: tl.constexpr, LINES: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A row of input is read once and given to the three rows of output that it is part of."""
    program = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    j = program % across * COLUMNS + tl.arange(0, COLUMNS)
    top, image = program // across % down * LINES, long(program // (across * down)) * H * W * C
    inside = c < C
    start = tl.zeros((COLUMNS, CHANNELS), dtype=tl.float32)
    if bias is not None:
        start += read(bias + c, inside)[None, :]
    above, here = start, start  # rows r - 1 and r of the output, as far as they are known before row r of the input
    mask = (j < W)[:, None] & inside[None, :]
    for r in range(top - 1, tl.minimum(top + LINES, H) + 1):
        left, middle = read_row(x + image, r, j - 1, c, H, W, C), read_row(x + image, r, j, c, H, W, C)
        right = read_row(x + image, r, j + 1, c, H, W, C)
        result = above + _three(weight, 2, c, C, left, middle, right)
        above = here + _three(weight, 1, c, C, left, middle, right)
        here = start + _three(weight, 0, c, C, left, middle, right)
        if r > top:
            if ACT:
                result = gelu(result)
            at = image + ((r - 1) * W + j)[:, None] * C + c[None, :]
            if addend is not None:
                result += read(addend + at, mask)
            write(y + at, result, mask)


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
