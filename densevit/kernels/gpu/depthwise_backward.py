"""Gradients of `depthwise` without act and addend. As those of `source/depthwise.cpp`, with a multiplier."""

import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.depthwise import read_row
from densevit.kernels.gpu.tiles import (
    PROGRAMS,
    add_partials,
    cdiv,
    channel_tile,
    gelu_parts,
    launch,
    long,
    new_partials,
    read,
    write,
)

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
    blocks, across, down = cdiv(C, width), cdiv(W, COLUMNS), cdiv(H, LINES)
    each = max(1, B * down * across * blocks // (4 * PROGRAMS))
    partials = new_partials(cdiv(B, each) * down * across, 12, outputs, x)
    sizes = (B, H, W, Ho, Wo, C, down, across, each)
    arguments = (x, scale, shift, mean, weight, grad_y, grad_x, partials, *sizes)
    launch(_downwards, (len(partials), blocks), arguments, (outputs // C, stride, LINES, COLUMNS, width), warps=8)
    add_partials(partials, sums)


@triton.jit
def _inner(x, scale, shift, row, column, c, H, W, C):
    """A row of x, of what stands in the convolution (zero outside the image), and of the slope between them."""
    value = read_row(x, row, column, c, H, W, C)
    inner, slope = value, tl.full(value.shape, 1.0, tl.float32)
    if scale is not None:
        normed = value * read(scale + c, c < C)[None, :] + read(shift + c, c < C)[None, :]
        mask = ((column < W) & (row >= 0) & (row < H))[:, None] & (c < C)[None, :]
        inner, slope = gelu_parts(normed)
        inner = tl.where(mask, inner, 0.0)
    return value, inner, slope


@triton.jit
def _gradients(grad_y, row, column, o, Ho, Wo, outputs, STRIDE: tl.constexpr):
    """A row of gradients; with a stride of 2 they are spread over every second cell of the input's size."""
    mask = (row >= 0) & (column >= 0) & (row < Ho * STRIDE) & (column < Wo * STRIDE)
    if STRIDE == 2:
        mask = mask & (row % 2 == 0) & (column % 2 == 0)
        row, column = row // 2, column // 2
    return read(grad_y + (row * Wo + column)[:, None] * outputs + o[None, :], mask[:, None] & (o < outputs)[None, :])


@triton.jit
def _three(weight, outputs, o, left, middle, right):
    """What a row of gradients gives to a row of input, through one line of the kernel turned round."""
    inside = o < outputs
    total = right * read(weight + o, inside)[None, :] + middle * read(weight + outputs + o, inside)[None, :]
    return total + left * read(weight + 2 * outputs + o, inside)[None, :]


@triton.jit(do_not_specialize=["B", "H", "W", "Ho", "Wo", "down", "across", "each"])
def _downwards(
    x, scale, shift, mean, weight, grad_y, grad_x, partials, B, H, W, Ho, Wo, C, down, across, each,
    MULTIPLIER: tl.constexpr, STRIDE: tl.constexpr, LINES: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A row of gradients is read once and meets three rows of input, each of which was read once too."""
    program, c = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    j = program % across * COLUMNS + tl.arange(0, COLUMNS)
    top, first = program // across % down * LINES, program // (across * down) * each
    bottom, inside, outputs = tl.minimum(top + LINES, H), c < C, C * MULTIPLIER
    centre = tl.zeros((CHANNELS,), dtype=tl.float32)
    if mean is not None:
        centre = read(mean + c, inside)
    mask = (j < W)[:, None] & inside[None, :]
    nothing = tl.zeros((COLUMNS, CHANNELS), dtype=tl.float32)
    for m in tl.static_range(MULTIPLIER):
        o = c * MULTIPLIER + m
        s0, s1, s2, s3, s4 = nothing, nothing, nothing, nothing, nothing
        s5, s6, s7, s8 = nothing, nothing, nothing, nothing
        by_bias, by_output, along = nothing, nothing, nothing
        for b in range(first, tl.minimum(first + each, B)):
            image, grads = long(b) * H * W * C, grad_y + long(b) * Ho * Wo * outputs
            # Rows r - 1 and r of the strip before row r of the gradients. Each begins as zeros of its own: Triton takes
            # a variable that is given another of the same value for one that the loop does not change.
            value_above, value_here = tl.zeros_like(nothing), tl.zeros_like(nothing)
            inner_above, inner_here = tl.zeros_like(nothing), tl.zeros_like(nothing)
            slope_above, slope_here = tl.zeros_like(nothing), tl.zeros_like(nothing)
            above, here = nothing, nothing
            for r in range(top - 1, bottom + 1):
                value_below, inner_below, slope_below = _inner(x + image, scale, shift, r + 1, j, c, H, W, C)
                inner_below = tl.where(r + 1 < bottom, inner_below, 0.0)
                left = _gradients(grads, r, j - 1, o, Ho, Wo, outputs, STRIDE)
                middle = _gradients(grads, r, j, o, Ho, Wo, outputs, STRIDE)
                right = _gradients(grads, r, j + 1, o, Ho, Wo, outputs, STRIDE)
                # row r met input row r + ky - 1 through line ky of the kernel, and column j + 1 - kx through kx
                result = above + _three(weight, outputs, o, left, middle, right)
                above = here + _three(weight + 3 * outputs, outputs, o, left, middle, right)
                here = _three(weight + 6 * outputs, outputs, o, left, middle, right)
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
                    by_bias += tl.where((j < W)[:, None], middle, 0.0)
                if r > top:
                    at, d = image + ((r - 1) * W + j)[:, None] * C + c[None, :], result * slope_above
                    if m > 0:
                        d += read(grad_x + at, mask)
                    write(grad_x + at, d, mask)
                    if scale is not None:
                        d = tl.where(mask, d, 0.0)
                        by_output += d
                        along += d * (value_above - centre[None, :])
                value_above, inner_above, slope_above = value_here, inner_here, slope_here
                value_here, inner_here, slope_here = value_below, inner_below, slope_below
        to = partials + long(program) * 12 * outputs + o
        _store(to, outputs, inside, s0, s1, s2, s3, s4, s5)
        _store(to + 6 * outputs, outputs, inside, s6, s7, s8, by_bias, by_output, along)


@triton.jit
def _store(to, outputs, inside, s0, s1, s2, s3, s4, s5):
    """Six rows of sums, of tiles each."""
    tl.store(to, tl.sum(s0, axis=0), mask=inside)
    tl.store(to + outputs, tl.sum(s1, axis=0), mask=inside)
    tl.store(to + 2 * outputs, tl.sum(s2, axis=0), mask=inside)
    tl.store(to + 3 * outputs, tl.sum(s3, axis=0), mask=inside)
    tl.store(to + 4 * outputs, tl.sum(s4, axis=0), mask=inside)
    tl.store(to + 5 * outputs, tl.sum(s5, axis=0), mask=inside)
