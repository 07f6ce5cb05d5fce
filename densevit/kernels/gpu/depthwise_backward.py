"""Gradients of `depthwise` without act and addend. As those of `source/depthwise.cpp`, with a multiplier."""

import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.depthwise_columns import COLUMNS, add_line, column_tile, line, six_cells
from densevit.kernels.gpu.tiles import (
    add_partials,
    cdiv,
    gelu_parts,
    launch,
    long,
    new_partials,
    read,
    write,
)

LINES = 28
"""Rows of the input that a program goes down."""
SHARE = 4096
"""About so many programs, as far as the batch can be shared: each writes twelve sums per channel for its part."""


def depthwise_backward(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, mean: Tensor | None, weight: Tensor, grad_y: Tensor,
    grad_x: Tensor, sums: Tensor, B: int, H: int, W: int, C: int, multiplier: int, stride: int,
) -> None:  # fmt: skip
    """To `sums` (12, C * multiplier) are added those of the weight (9), the bias, grad_x, and grad_x times x - mean.

    The last two are zero without `scale`, which a multiplier does not go with.
    """
    _, Ho, Wo, outputs = grad_y.shape
    width, warps = column_tile(C)
    blocks, across, down = cdiv(C, width), cdiv(W, COLUMNS), cdiv(H, LINES)
    each = max(1, B * down * across * blocks // SHARE)
    partials = new_partials(cdiv(B, each) * down * across, 12, outputs, x)
    sizes = (B, H, W, Ho, Wo, down, across, each)
    arguments = (x, scale, shift, mean, weight, grad_y, grad_x, partials, *sizes)
    launch(_gradients_downwards, (len(partials), blocks), arguments, (C, multiplier, stride, LINES, width), warps=warps)
    add_partials(partials, sums)


@triton.jit
def _six_gradients(grad_y, row, j, o, W, Ho, Wo, outputs, inside, STRIDE: tl.constexpr):
    """A row of gradients at columns j - 1 to j + 4 of the input, j a multiple of 4; zero for those outside of it.

    With a stride of 2 they are spread over every second cell of the input's size.
    """
    there = inside & (row >= 0) & (row < Ho * STRIDE) & (row % STRIDE == 0)
    at = grad_y + (row // STRIDE * Wo + j // STRIDE) * outputs + o
    if STRIDE == 1:
        cells = six_cells(at, outputs, j, Wo, there)
    else:
        zero = tl.zeros(o.shape, dtype=grad_y.dtype.element_ty)
        cells = (
            zero,
            tl.load(at, mask=there, other=0.0),
            zero,
            tl.load(at + outputs, mask=there & (j + 2 < 2 * Wo), other=0.0),
            zero,
            tl.load(at + 2 * outputs, mask=there & (j + 4 < 2 * Wo), other=0.0),
        )
    return cells


@triton.jit
def _four_cells(at, step, j, W, inside):
    return (
        tl.load(at, mask=inside, other=0.0),
        tl.load(at + step, mask=inside & (j + 1 < W), other=0.0),
        tl.load(at + 2 * step, mask=inside & (j + 2 < W), other=0.0),
        tl.load(at + 3 * step, mask=inside & (j + 3 < W), other=0.0),
    )


@triton.jit
def _four_floats(x):
    return x[0].to(tl.float32), x[1].to(tl.float32), x[2].to(tl.float32), x[3].to(tl.float32)


@triton.jit
def _six_floats(x):
    a, b, c, d = _four_floats(x)
    return a, b, c, d, x[4].to(tl.float32), x[5].to(tl.float32)


@triton.jit
def _add_products(s, x, g):
    """To the sums of a line of the kernel, left to right, cells times the gradients that those weights took them to."""
    return (
        s[0] + x[0] * g[2] + x[1] * g[3] + x[2] * g[4] + x[3] * g[5],
        s[1] + x[0] * g[1] + x[1] * g[2] + x[2] * g[3] + x[3] * g[4],
        s[2] + x[0] * g[0] + x[1] * g[1] + x[2] * g[2] + x[3] * g[3],
    )


@triton.jit(do_not_specialize=["B", "H", "W", "Ho", "Wo", "down", "across", "each"])
def _gradients_downwards(
    x, scale, shift, mean, weight, grad_y, grad_x, partials, B, H, W, Ho, Wo, down, across, each,
    C: tl.constexpr, MULTIPLIER: tl.constexpr, STRIDE: tl.constexpr, LINES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A row of input meets three rows of gradients, each of which was read once, a row ahead."""
    program, c = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    j, top, first = program % across * 4, program // across % down * LINES, program // (across * down) * each
    bottom, inside, outputs = tl.minimum(top + LINES, H), c < C, C * MULTIPLIER
    zero = tl.zeros((CHANNELS,), dtype=tl.float32)
    none, factor, summand, centre = (zero, zero, zero, zero), zero, zero, zero
    if scale is not None:
        factor, summand, centre = read(scale + c, inside), read(shift + c, inside), read(mean + c, inside)
    for m in tl.static_range(MULTIPLIER):
        o = c * MULTIPLIER + m
        a0, b0, c0 = line(weight, 0, o, outputs)
        a1, b1, c1 = line(weight, 1, o, outputs)
        a2, b2, c2 = line(weight, 2, o, outputs)
        s0, s1, s2 = (zero, zero, zero), (zero, zero, zero), (zero, zero, zero)
        by_bias, by_output, along = zero, zero, zero
        for b in range(first, tl.minimum(first + each, B)):
            at, grads = long(b) * H * W * C + (top * W + j) * C + c, grad_y + long(b) * Ho * Wo * outputs
            # rows i - 1, i and i + 1 of the gradients, which lines 2, 1 and 0 of the kernel took to row i of the input
            g2 = _six_floats(_six_gradients(grads, top - 1, j, o, W, Ho, Wo, outputs, inside, STRIDE))
            g1 = _six_floats(_six_gradients(grads, top, j, o, W, Ho, Wo, outputs, inside, STRIDE))
            ahead = _six_gradients(grads, top + 1, j, o, W, Ho, Wo, outputs, inside, STRIDE)
            coming = _four_cells(x + at, C, j, W, inside)
            for i in range(top, bottom):
                value, g0 = _four_floats(coming), _six_floats(ahead)
                ahead = _six_gradients(grads, i + 2, j, o, W, Ho, Wo, outputs, inside, STRIDE)
                coming = _four_cells(x + (at + W * C), C, j, W, inside & (i + 1 < bottom))
                d = add_line(none, g2, c2, b2, a2)
                d = add_line(d, g1, c1, b1, a1)
                d = add_line(d, g0, c0, b0, a0)
                inner = value
                if scale is not None:
                    i0, slope0 = _gelu_parts_there(value[0], factor, summand, j < W)
                    i1, slope1 = _gelu_parts_there(value[1], factor, summand, j + 1 < W)
                    i2, slope2 = _gelu_parts_there(value[2], factor, summand, j + 2 < W)
                    i3, slope3 = _gelu_parts_there(value[3], factor, summand, j + 3 < W)
                    inner = (i0, i1, i2, i3)
                    d = (d[0] * slope0, d[1] * slope1, d[2] * slope2, d[3] * slope3)
                    by_output += (d[0] + d[1]) + (d[2] + d[3])
                    along += d[0] * (value[0] - centre) + d[1] * (value[1] - centre)
                    along += d[2] * (value[2] - centre) + d[3] * (value[3] - centre)
                s0, s1, s2 = _add_products(s0, inner, g0), _add_products(s1, inner, g1), _add_products(s2, inner, g2)
                by_bias += (g1[1] + g1[2]) + (g1[3] + g1[4])
                _put(grad_x, at, d[0], inside, m > 0)
                _put(grad_x, at + C, d[1], inside & (j + 1 < W), m > 0)
                _put(grad_x, at + 2 * C, d[2], inside & (j + 2 < W), m > 0)
                _put(grad_x, at + 3 * C, d[3], inside & (j + 3 < W), m > 0)
                at += W * C
                g2, g1 = g1, g0
        to = partials + long(program) * 12 * outputs + o
        _store(to, outputs, inside, s0)
        _store(to + 3 * outputs, outputs, inside, s1)
        _store(to + 6 * outputs, outputs, inside, s2)
        _store(to + 9 * outputs, outputs, inside, (by_bias, by_output, along))


@triton.jit
def _gelu_parts_there(x, factor, summand, there):
    """Zero where there is no cell: the norm makes something of the zero that was read."""
    inner, slope = gelu_parts(x * factor + summand)
    return tl.where(there, inner, 0.0), tl.where(there, slope, 0.0)


@triton.jit
def _put(grad_x, at, value, mask, ADD: tl.constexpr):
    if ADD:
        value += read(grad_x + at, mask)
    write(grad_x + at, value, mask)


@triton.jit
def _store(to, outputs, inside, sums):
    tl.store(to, sums[0], mask=inside)
    tl.store(to + outputs, sums[1], mask=inside)
    tl.store(to + 2 * outputs, sums[2], mask=inside)
