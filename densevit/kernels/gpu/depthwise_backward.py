"""Gradients of `depthwise` without act and addend. As those of `source/depthwise.cpp`, with a multiplier."""

import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.depthwise import add_line, line
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

COLUMNS = 8
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
    warps = max(1, COLUMNS * width // 128)  # four elements a thread
    sizes = (B, H, W, Ho, Wo, C, down, across, each)
    arguments = (x, scale, shift, mean, weight, grad_y, grad_x, partials, *sizes)
    constants = (outputs // C, stride, LINES, COLUMNS, width)
    launch(_gradients_downwards, (len(partials), blocks), arguments, constants, warps=warps)
    add_partials(partials, sums)


@triton.jit
def _gradients(grad_y, row, j, o, W, Ho, Wo, outputs, STRIDE: tl.constexpr):
    """A row of gradients, left of, at and right of columns `j` of the input; zero for those outside of it.

    With a stride of 2 they are spread over every second cell of the input's size.
    """
    there, inside = (row >= 0) & (row < Ho * STRIDE) & (j < W), (o < outputs)[None, :]
    left, here, right = there & (j > 0), there, there & (j + 1 < Wo * STRIDE)
    if STRIDE == 2:
        even = (row % 2 == 0) & (j % 2 == 0)
        odd = (row % 2 == 0) & (j % 2 == 1)
        left, here, right = left & odd, here & even, right & odd
    start = grad_y + row // STRIDE * Wo * outputs
    return (
        tl.load(start + ((j - 1) // STRIDE * outputs)[:, None] + o[None, :], mask=left[:, None] & inside, other=0.0),
        tl.load(start + (j // STRIDE * outputs)[:, None] + o[None, :], mask=here[:, None] & inside, other=0.0),
        tl.load(start + ((j + 1) // STRIDE * outputs)[:, None] + o[None, :], mask=right[:, None] & inside, other=0.0),
    )


@triton.jit(do_not_specialize=["B", "H", "W", "Ho", "Wo", "down", "across", "each"])
def _gradients_downwards(
    x, scale, shift, mean, weight, grad_y, grad_x, partials, B, H, W, Ho, Wo, C, down, across, each,
    MULTIPLIER: tl.constexpr, STRIDE: tl.constexpr, LINES: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A row of input meets three rows of gradients, each of which was read once, a row ahead."""
    program, c = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    j = program % across * COLUMNS + tl.arange(0, COLUMNS)
    top, first = program // across % down * LINES, program // (across * down) * each
    bottom, inside, outputs = tl.minimum(top + LINES, H), (c < C)[None, :], C * MULTIPLIER
    cells, mask = j[:, None] * C + c[None, :], (j < W)[:, None] & inside
    nothing, zeros = tl.zeros((COLUMNS, CHANNELS), dtype=tl.float32), tl.zeros((1, CHANNELS), dtype=tl.float32)
    factor, summand, centre = zeros, zeros, zeros
    if scale is not None:
        factor, summand = read(scale + c[None, :], inside), read(shift + c[None, :], inside)
        centre = read(mean + c[None, :], inside)
    for m in tl.static_range(MULTIPLIER):
        o = c * MULTIPLIER + m
        a0, b0, c0 = line(weight, 0, o, outputs)
        a1, b1, c1 = line(weight, 1, o, outputs)
        a2, b2, c2 = line(weight, 2, o, outputs)
        s0, s1, s2, s3, s4 = nothing, nothing, nothing, nothing, nothing
        s5, s6, s7, s8 = nothing, nothing, nothing, nothing
        by_bias, by_output, along = nothing, nothing, nothing
        for b in range(first, tl.minimum(first + each, B)):
            image, grads = long(b) * H * W * C, grad_y + long(b) * Ho * Wo * outputs
            # Rows i - 1, i and i + 1 of the gradients, which lines 2, 1 and 0 of the kernel took to row i of the input,
            # left of, at and right of it, where columns 2, 1 and 0 of the kernel took them.
            g22, g21, g20 = _gradients(grads, top - 1, j, o, W, Ho, Wo, outputs, STRIDE)
            g12, g11, g10 = _gradients(grads, top, j, o, W, Ho, Wo, outputs, STRIDE)
            g02, g01, g00 = _gradients(grads, top + 1, j, o, W, Ho, Wo, outputs, STRIDE)
            coming = tl.load(x + (image + top * W * C) + cells, mask=mask, other=0.0)
            for i in range(top, bottom):
                at, value = image + i * W * C, coming.to(tl.float32)
                left, middle, right = _gradients(grads, i + 2, j, o, W, Ho, Wo, outputs, STRIDE)
                coming = tl.load(x + (at + W * C) + cells, mask=mask & (i + 1 < bottom), other=0.0)
                inner, slope = value, nothing
                if scale is not None:
                    inner, slope = gelu_parts(value * factor + summand)
                d = add_line(nothing, g20, g21, g22, a2, b2, c2)
                d = add_line(d, g10, g11, g12, a1, b1, c1)
                d = add_line(d, g00, g01, g02, a0, b0, c0)
                s0, s1, s2 = _add_products(s0, s1, s2, g00, g01, g02, inner)
                s3, s4, s5 = _add_products(s3, s4, s5, g10, g11, g12, inner)
                s6, s7, s8 = _add_products(s6, s7, s8, g20, g21, g22, inner)
                by_bias += g11.to(tl.float32)
                if scale is not None:
                    d *= slope
                    by_output += d
                    along += d * (value - centre)
                if m > 0:
                    d += read(grad_x + at + cells, mask)
                write(grad_x + at + cells, d, mask)
                g22, g21, g20 = g12, g11, g10
                g12, g11, g10 = g02, g01, g00
                g02, g01, g00 = left, middle, right
        to = partials + long(program) * 12 * outputs + o
        _store(to, outputs, c < C, s0, s1, s2, s3, s4, s5)
        _store(to + 6 * outputs, outputs, c < C, s6, s7, s8, by_bias, by_output, along)


@triton.jit
def _add_products(s, t, u, a, b, c, x):
    return s + a.to(tl.float32) * x, t + b.to(tl.float32) * x, u + c.to(tl.float32) * x


@triton.jit
def _store(to, outputs, inside, s0, s1, s2, s3, s4, s5):
    """Six rows of sums, of tiles each."""
    tl.store(to, tl.sum(s0, axis=0), mask=inside)
    tl.store(to + outputs, tl.sum(s1, axis=0), mask=inside)
    tl.store(to + 2 * outputs, tl.sum(s2, axis=0), mask=inside)
    tl.store(to + 3 * outputs, tl.sum(s3, axis=0), mask=inside)
    tl.store(to + 4 * outputs, tl.sum(s4, axis=0), mask=inside)
    tl.store(to + 5 * outputs, tl.sum(s5, axis=0), mask=inside)
