"""3x3 depth-wise convolution of (B, H, W, C) maps, padding 1. As `source/depthwise.cpp`, but for a multiplier.

With a multiplier m output channel o reads input channel o // m, as a convolution of C groups and m * C channels does.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.rows import affine_gelu
from densevit.kernels.gpu.tiles import cdiv, channel_tile, gelu, launch, long, read, write

COLUMNS = 4
"""Cells beside each other that a program takes down the map; written out below."""
LINES = 28
"""Rows that one program goes down."""
CELLS, CHANNELS, PER_THREAD = 8, 64, 8
"""Of a program that takes cell by cell; elements of a thread."""


def depthwise(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, weight: Tensor, bias: Tensor | None, addend: Tensor | None,
    y: Tensor, B: int, H: int, W: int, C: int, stride: int, act: int,
) -> None:  # fmt: skip
    """GELU before the convolution takes a pass of its own where every cell is read in three places or more."""
    _, Ho, Wo, outputs = y.shape
    if stride == 1 and outputs == C:
        width, warps = column_tile(C)
        across, down = cdiv(W, COLUMNS), cdiv(H, LINES)
        grid, arguments = (
            (B * down * across, cdiv(C, width)),
            (x, scale, shift, weight, bias, addend, y, H, W, down, across),
        )
        launch(_downwards, grid, arguments, (C, act, LINES, width), warps=warps)
    else:
        width = channel_tile(outputs, largest=CHANNELS)
        warps = max(1, CELLS * width // (32 * PER_THREAD))
        grid = cdiv(B * Ho * Wo, CELLS), cdiv(outputs, width)
        if scale is not None and shift is not None:
            inner = torch.empty_like(x)
            affine_gelu(x, scale, shift, inner, B * H * W, C)
            x = inner
        cells = (x, weight, bias, addend, y, B * Ho * Wo, H, W, Ho, Wo, C)
        launch(_cell_by_cell, grid, cells, (outputs // C, stride, act, CELLS, width), warps=warps)


def column_tile(channels: int) -> tuple[int, int]:
    """Channels of a program that goes down columns, and its warps: two channels a thread."""
    width = max(32, channel_tile(channels))
    return width, max(1, width // 64)


@triton.jit
def line(weight, ky, o, outputs):
    """The three weights of line ky of the kernel, for channels `o`."""
    at, inside = weight + 3 * ky * outputs + o, o < outputs
    return read(at, inside), read(at + outputs, inside), read(at + 2 * outputs, inside)


@triton.jit
def six_cells(at, step, j, W, inside):
    """Cells j - 1 to j + 4 of a row; `at` points to cell j, `step` leads to the next. Zero where masked."""
    return (
        tl.load(at - step, mask=inside & (j > 0), other=0.0),
        tl.load(at, mask=inside, other=0.0),
        tl.load(at + step, mask=inside & (j + 1 < W), other=0.0),
        tl.load(at + 2 * step, mask=inside & (j + 2 < W), other=0.0),
        tl.load(at + 3 * step, mask=inside & (j + 3 < W), other=0.0),
        tl.load(at + 4 * step, mask=inside & (j + 4 < W), other=0.0),
    )


@triton.jit
def _inner(x, factor, summand, there):
    """GELU(x * factor + summand); zero where there is no cell."""
    return tl.where(there, gelu(x.to(tl.float32) * factor + summand), 0.0)


@triton.jit
def _six_inner(cells, factor, summand, j, W, there):
    """Of the `six_cells` of a row; they themselves without a factor."""
    if factor is not None:
        cells = (
            _inner(cells[0], factor, summand, there & (j > 0)),
            _inner(cells[1], factor, summand, there),
            _inner(cells[2], factor, summand, there & (j + 1 < W)),
            _inner(cells[3], factor, summand, there & (j + 2 < W)),
            _inner(cells[4], factor, summand, there & (j + 3 < W)),
            _inner(cells[5], factor, summand, there & (j + 4 < W)),
        )
    return cells


@triton.jit
def add_line(totals, cells, a, b, c):
    """To the four totals, what six cells give through the weights a, b, c of left, middle and right; in float32."""
    x0, x1, x2 = cells[0].to(tl.float32), cells[1].to(tl.float32), cells[2].to(tl.float32)
    x3, x4, x5 = cells[3].to(tl.float32), cells[4].to(tl.float32), cells[5].to(tl.float32)
    return (
        totals[0] + x0 * a + x1 * b + x2 * c,
        totals[1] + x1 * a + x2 * b + x3 * c,
        totals[2] + x2 * a + x3 * b + x4 * c,
        totals[3] + x3 * a + x4 * b + x5 * c,
    )


@triton.jit
def _finish(y, addend, at, result, mask, ACT: tl.constexpr):
    if ACT:
        result = gelu(result)
    if addend is not None:
        result += read(addend + at, mask)
    write(y + at, result, mask)


@triton.jit(do_not_specialize=["H", "W", "down", "across"])
def _downwards(
    x, scale, shift, weight, bias, addend, y, H, W, down, across,
    C: tl.constexpr, ACT: tl.constexpr, LINES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A row of input is read once, a row ahead, and given to the three rows of output that it is part of."""
    program = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    j, top, inside = program % across * 4, program // across % down * LINES, c < C
    bottom, row, image = tl.minimum(top + LINES, H), W * C, long(program // (across * down)) * H * W * C
    a0, b0, c0 = line(weight, 0, c, C)
    a1, b1, c1 = line(weight, 1, c, C)
    a2, b2, c2 = line(weight, 2, c, C)
    first = tl.zeros((CHANNELS,), dtype=tl.float32)
    if bias is not None:
        first += read(bias + c, inside)
    start = (first, first, first, first)
    factor, summand = None, None
    if scale is not None:
        factor, summand = read(scale + c, inside), read(shift + c, inside)
    # rows i and i + 1 of the output, as far as they are known before row i + 1 of the input
    at = image + long(top) * row + j * C + c
    cells = six_cells(x + (at - row), C, j, W, inside & (top > 0))
    known = add_line(start, _six_inner(cells, factor, summand, j, W, top > 0), a0, b0, c0)
    cells = _six_inner(six_cells(x + at, C, j, W, inside), factor, summand, j, W, top >= 0)
    known, coming = add_line(known, cells, a1, b1, c1), add_line(start, cells, a0, b0, c0)
    ahead = six_cells(x + (at + row), C, j, W, inside & (top + 1 < H))
    for i in range(top, bottom):
        cells = _six_inner(ahead, factor, summand, j, W, i + 1 < H)
        ahead = six_cells(x + (at + 2 * row), C, j, W, inside & (i + 2 < H))
        result = add_line(known, cells, a2, b2, c2)
        known, coming = add_line(coming, cells, a1, b1, c1), add_line(start, cells, a0, b0, c0)
        _finish(y, addend, at, result[0], inside, ACT)
        _finish(y, addend, at + C, result[1], inside & (j + 1 < W), ACT)
        _finish(y, addend, at + 2 * C, result[2], inside & (j + 2 < W), ACT)
        _finish(y, addend, at + 3 * C, result[3], inside & (j + 3 < W), ACT)
        at += row


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
