"""3x3 depth-wise convolution of (B, H, W, C) maps, padding 1. As `source/depthwise.cpp`, but for a multiplier.

With a multiplier m output channel o reads input channel o // m, as a convolution of C groups and m * C channels does.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.rows import affine_gelu
from densevit.kernels.gpu.tiles import cdiv, channel_tile, gelu, launch, long, read, write

COLUMNS = 8
"""Cells of a row that one program takes."""
LINES = 14
"""Rows that one program goes down."""
CHANNELS = 64
PER_THREAD = 8
"""Elements of a thread: enough of a row under way at once, few enough registers."""


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
    width = channel_tile(outputs, largest=CHANNELS)
    warps = max(1, COLUMNS * width // (32 * PER_THREAD))
    if stride == 1 and outputs == C:
        across, down = cdiv(W, COLUMNS), cdiv(H, LINES)
        arguments = (x, weight, bias, addend, y, H, W, C, down, across)
        launch(_downwards, (B * down * across, cdiv(C, width)), arguments, (act, LINES, COLUMNS, width), warps=warps)
    else:
        grid = cdiv(B * Ho * Wo, COLUMNS), cdiv(outputs, width)
        cells = (x, weight, bias, addend, y, B * Ho * Wo, H, W, Ho, Wo, C)
        launch(_cell_by_cell, grid, cells, (outputs // C, stride, act, COLUMNS, width), warps=warps)


@triton.jit
def line(weight, ky, o, outputs):
    """The three weights of line ky of the kernel, for channels `o`."""
    at, inside = weight + 3 * ky * outputs + o[None, :], (o < outputs)[None, :]
    return read(at, inside), read(at + outputs, inside), read(at + 2 * outputs, inside)


@triton.jit
def load_row(x, cells, step, here, left, right):
    """A row of cells and its neighbours on either side; `step` apart. Zero where masked."""
    return (
        tl.load(x + (cells - step), mask=left, other=0.0),
        tl.load(x + cells, mask=here, other=0.0),
        tl.load(x + (cells + step), mask=right, other=0.0),
    )


@triton.jit
def add_line(total, left, middle, right, a, b, c):
    """What three cells give through the weights a, b, c, in float32."""
    return total + left.to(tl.float32) * a + middle.to(tl.float32) * b + right.to(tl.float32) * c


@triton.jit(do_not_specialize=["H", "W", "down", "across"])
def _downwards(
    x, weight, bias, addend, y, H, W, C, down, across,
    ACT: tl.constexpr, LINES: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A row of input is read once, a row ahead, and given to the three rows of output that it is part of.

    The weights are read before the loop: in it Triton would carry them from one order of threads to another.
    """
    program = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    j = program % across * COLUMNS + tl.arange(0, COLUMNS)
    top, image = program // across % down * LINES, long(program // (across * down)) * H * W * C
    bottom, inside, cells = tl.minimum(top + LINES, H), (c < C)[None, :], j[:, None] * C + c[None, :]
    here, left, right = (j < W)[:, None] & inside, ((j > 0) & (j <= W))[:, None] & inside, (j + 1 < W)[:, None] & inside
    a0, b0, c0 = line(weight, 0, c, C)
    a1, b1, c1 = line(weight, 1, c, C)
    a2, b2, c2 = line(weight, 2, c, C)
    start = tl.zeros((COLUMNS, CHANNELS), dtype=tl.float32)
    if bias is not None:
        start += read(bias + c[None, :], inside)
    # rows i and i + 1 of the output, as far as they are known before row i + 1 of the input
    at, down = image + long(top) * W * C, W * C
    p, q, r = load_row(x + (at - down), cells, C, here & (top > 0), left & (top > 0), right & (top > 0))
    known = add_line(start, p, q, r, a0, b0, c0)
    p, q, r = load_row(x + at, cells, C, here, left, right)
    known, coming = add_line(known, p, q, r, a1, b1, c1), add_line(start, p, q, r, a0, b0, c0)
    more = top + 1 < H
    p, q, r = load_row(x + (at + down), cells, C, here & more, left & more, right & more)
    for i in range(top, bottom):
        result = add_line(known, p, q, r, a2, b2, c2)
        known, coming = add_line(coming, p, q, r, a1, b1, c1), add_line(start, p, q, r, a0, b0, c0)
        more = i + 2 < H
        p, q, r = load_row(x + (at + 2 * down), cells, C, here & more, left & more, right & more)
        if ACT:
            result = gelu(result)
        if addend is not None:
            result += read(addend + at + cells, here)
        write(y + at + cells, result, here)
        at += down


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
