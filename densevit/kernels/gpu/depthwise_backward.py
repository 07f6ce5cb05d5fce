"""Gradients of `depthwise` without act and addend. As `depthwise_backward` of `source/depthwise.cpp`, with a multiplier."""

import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.depthwise import read_row
from densevit.kernels.gpu.tiles import long, PROGRAMS, add_partials, channel_tile, gelu, gelu_slope, new_partials, read, write

COLUMNS = 16
LINES = 28
CHANNELS = 64


def depthwise_backward(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, mean: Tensor | None, weight: Tensor, grad_y: Tensor,
    grad_x: Tensor, sums: Tensor, B: int, H: int, W: int, C: int, stride: int,
) -> None:  # fmt: skip
    """To `sums` (12, C * multiplier) are added those of the weight (9), the bias, grad_x, and grad_x times x - mean.

    The last two are zero without `scale`, which a multiplier does not go with.
    """
    _, Ho, Wo, outputs = grad_y.shape
    width = channel_tile(C, largest=CHANNELS)
    blocks = triton.cdiv(C, width)
    if stride == 1 and outputs == C:
        across, down = triton.cdiv(W, COLUMNS), triton.cdiv(H, LINES)
        each = max(1, B * down * across * blocks // (2 * PROGRAMS))
        partials = new_partials(triton.cdiv(B, each) * down * across, 12, C, x)
        _downwards[(len(partials), blocks)](
            x, scale, shift, mean, weight, grad_y, grad_x, partials, B, H, W, C, down, across, each,
            LINES=LINES, COLUMNS=COLUMNS, CHANNELS=width,
        )  # fmt: skip
    else:
        tiles = triton.cdiv(B * H * W, COLUMNS)
        each = triton.cdiv(tiles, max(1, 2 * PROGRAMS // blocks))
        partials = new_partials(triton.cdiv(tiles, each), 12, outputs, x)
        _cell_by_cell[(len(partials), blocks)](
            x, scale, shift, mean, weight, grad_y, grad_x, partials, B * H * W, H, W, Ho, Wo, C, each,
            MULTIPLIER=outputs // C, STRIDE=stride, CELLS=COLUMNS, CHANNELS=width,
        )  # fmt: skip
    add_partials(partials, sums)


@triton.jit
def _inner(x, scale, shift, row, column, c, H, W, C):
    """A row of x, of what stands in the convolution (zero outside the image), and of the slope between them."""
    value = read_row(x, row, column, c, H, W, C)
    inner, slope = value, tl.full(value.shape, 1.0, tl.float32)
    if scale is not None:
        normed = value * read(scale + c, c < C)[None, :] + read(shift + c, c < C)[None, :]
        mask = ((column < W) & (row >= 0) & (row < H))[:, None] & (c < C)[None, :]
        inner, slope = tl.where(mask, gelu(normed), 0.0), gelu_slope(normed)
    return value, inner, slope


@triton.jit
def _three(weight, line, c, C, left, middle, right):
    """What a row of gradients gives to a row of input, through one line of the kernel turned round."""
    at, inside = weight + line * 3 * C + c, c < C
    return (
        right * read(at, inside)[None, :] + middle * read(at + C, inside)[None, :] + left * read(at + 2 * C, inside)[None, :]
    )


@triton.jit
def _downwards(
    x, scale, shift, mean, weight, grad_y, grad_x, partials, B, H, W, C, down, across, each,
    LINES: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A row of gradients is read once and meets three rows of input, each of which was read once too."""
    program = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    j = program % across * COLUMNS + tl.arange(0, COLUMNS)
    top, first = program // across % down * LINES, program // (across * down) * each
    bottom, inside = min(top + LINES, H), c < C
    nothing = tl.zeros((COLUMNS, CHANNELS), dtype=tl.float32)
    s0, s1, s2, s3, s4, s5, s6, s7, s8 = (
        nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing
    )  # fmt: skip
    by_bias, by_output, along = nothing, nothing, nothing
    centre = tl.zeros((CHANNELS,), dtype=tl.float32)
    if mean is not None:
        centre = read(mean + c, inside)
    mask = (j < W)[:, None] & inside[None, :]
    for b in range(first, min(first + each, B)):
        image = long(b) * H * W * C
        # rows r - 1 and r before row r of the gradients; the strip's own rows alone count in the sums of the weight
        value_above, inner_above, slope_above = nothing, nothing, nothing
        value_here, inner_here, slope_here = nothing, nothing, nothing
        above, here = nothing, nothing
        for r in range(top - 1, bottom + 1):
            value_below, inner_below, slope_below = _inner(x + image, scale, shift, r + 1, j, c, H, W, C)
            inner_below = tl.where(r + 1 < bottom, inner_below, 0.0)
            left, middle = read_row(grad_y + image, r, j - 1, c, H, W, C), read_row(grad_y + image, r, j, c, H, W, C)
            right = read_row(grad_y + image, r, j + 1, c, H, W, C)
            # row r of gradients met row r + ky - 1 of input through line ky of the kernel, column j + 1 - kx through kx
            result = above + _three(weight, 0, c, C, left, middle, right)
            above = here + _three(weight, 1, c, C, left, middle, right)
            here = _three(weight, 2, c, C, left, middle, right)
            s0 += right * inner_above
            s1 += middle * inner_above
            s2 += left * inner_above
            s3 += right * inner_here
            s4 += middle * inner_here
            s5 += left * inner_here
            s6 += right * inner_below
            s7 += middle * inner_below
            s8 += left * inner_below
            if (r >= top) & (r < bottom):
                by_bias += middle
            if r > top:
                d = result * slope_above
                write(grad_x + image + ((r - 1) * W + j)[:, None] * C + c[None, :], d, mask)
                if scale is not None:
                    d = tl.where(mask, d, 0.0)
                    by_output += d
                    along += d * (value_above - centre[None, :])
            value_above, inner_above, slope_above = value_here, inner_here, slope_here
            value_here, inner_here, slope_here = value_below, inner_below, slope_below
    to = partials + long(program) * 12 * C + c
    _store(to, C, inside, s0, s1, s2, s3, s4, s5)
    _store(to + 6 * C, C, inside, s6, s7, s8, by_bias, by_output, along)


@triton.jit
def _store(to, C, inside, s0, s1, s2, s3, s4, s5):
    """Six rows of sums, of tiles each."""
    tl.store(to, tl.sum(s0, axis=0), mask=inside)
    tl.store(to + C, tl.sum(s1, axis=0), mask=inside)
    tl.store(to + 2 * C, tl.sum(s2, axis=0), mask=inside)
    tl.store(to + 3 * C, tl.sum(s3, axis=0), mask=inside)
    tl.store(to + 4 * C, tl.sum(s4, axis=0), mask=inside)
    tl.store(to + 5 * C, tl.sum(s5, axis=0), mask=inside)


@triton.jit
def _cell_by_cell(
    x, scale, shift, mean, weight, grad_y, grad_x, partials, cells, H, W, Ho, Wo, C, each,
    MULTIPLIER: tl.constexpr, STRIDE: tl.constexpr, CELLS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A cell of the input meets, per tap, one cell of the output or none; its value and slope are computed once."""
    first, c = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside, outputs = c < C, C * MULTIPLIER
    which = tl.arange(0, 16)[:, None]
    for m in tl.static_range(MULTIPLIER):
        o = c * MULTIPLIER + m
        sums = tl.zeros((16, CHANNELS), dtype=tl.float32)
        for step in range(0, each):
            p = (first * each + step) * CELLS + tl.arange(0, CELLS)
            there = p < cells
            image, i, j = long(p // (H * W)), p // W % H, p % W
            at, mask = long(p[:, None]) * C + c[None, :], there[:, None] & inside[None, :]
            value = read(x + at, mask)
            inner, slope = value, tl.full((CELLS, CHANNELS), 1.0, tl.float32)
            if scale is not None:
                normed = value * read(scale + c, inside)[None, :] + read(shift + c, inside)[None, :]
                inner, slope = gelu(normed), gelu_slope(normed)
            total = tl.zeros((CELLS, CHANNELS), dtype=tl.float32)
            for tap in tl.static_range(9):
                row, column = i + 1 - tap // 3, j + 1 - tap % 3
                valid = there & (row >= 0) & (column >= 0) & (row % STRIDE == 0) & (column % STRIDE == 0)
                row, column = row // STRIDE, column // STRIDE
                valid = valid & (row < Ho) & (column < Wo)
                where = ((image * Ho + row) * Wo + column)[:, None] * outputs + o[None, :]
                grad = read(grad_y + where, valid[:, None] & inside[None, :])
                total += grad * read(weight + tap * outputs + o, inside)[None, :]
                sums += tl.where(which == tap, tl.sum(grad * inner, axis=0)[None, :], 0.0)
                if tap == 4:
                    sums += tl.where(which == 9, tl.sum(grad, axis=0)[None, :], 0.0)
            if m > 0:
                total += read(grad_x + at, mask)
            d = total * slope
            write(grad_x + at, d, mask)
            if scale is not None:
                d = tl.where(mask, d, 0.0)
                away = value - read(mean + c, inside)[None, :]
                sums += tl.where(which == 10, tl.sum(d, axis=0)[None, :], 0.0)
                sums += tl.where(which == 11, tl.sum(d * away, axis=0)[None, :], 0.0)
        to = partials + long(first) * 12 * outputs + which * outputs + o[None, :]
        tl.store(to, sums, mask=(which < 12) & inside[None, :])
