"""3x3 depth-wise convolution down four columns of a map, which are written out; channels are the one dimension.

A tuple of six, or nine, is a row of cells and its neighbour on either side.
"""

import triton
import triton.language as tl

from densevit.kernels.gpu.tiles import channel_tile, gelu, long, read, write

COLUMNS = 4
"""Cells of the output beside each other that a program takes: as many as are written out below."""
LINES = 28
"""Rows of the output that it goes down."""


def column_tile(channels: int) -> tuple[int, int]:
    """Channels of a program that goes down columns, and its warps: two channels a thread, or one."""
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
def inner(x, factor, summand, there):
    """GELU(x * factor + summand); zero where there is no cell."""
    return tl.where(there, gelu(x.to(tl.float32) * factor + summand), 0.0)


@triton.jit
def six_inner(cells, factor, summand, j, W, there):
    """Of the `six_cells` of a row, if it is `there` (a kernel's number, not Python's); the same without a factor."""
    if factor is not None:
        cells = (
            inner(cells[0], factor, summand, there & (j > 0)),
            inner(cells[1], factor, summand, there),
            inner(cells[2], factor, summand, there & (j + 1 < W)),
            inner(cells[3], factor, summand, there & (j + 2 < W)),
            inner(cells[4], factor, summand, there & (j + 3 < W)),
            inner(cells[5], factor, summand, there & (j + 4 < W)),
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


@triton.jit
def _finish_four(y, addend, at, step, result, j, W, inside, ACT: tl.constexpr):
    _finish(y, addend, at, result[0], inside, ACT)
    _finish(y, addend, at + step, result[1], inside & (j + 1 < W), ACT)
    _finish(y, addend, at + 2 * step, result[2], inside & (j + 2 < W), ACT)
    _finish(y, addend, at + 3 * step, result[3], inside & (j + 3 < W), ACT)


@triton.jit
def _begin(bias, c, inside):
    """The four totals before the first line: the bias, or zero."""
    first = tl.zeros(c.shape, dtype=tl.float32)
    if bias is not None:
        first += read(bias + c, inside)
    return (first, first, first, first)


@triton.jit(do_not_specialize=["H", "W", "down", "across"])
def downwards(
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
    start, factor, summand = _begin(bias, c, inside), None, None
    if scale is not None:
        factor, summand = read(scale + c, inside), read(shift + c, inside)
    # rows i and i + 1 of the output, as far as they are known before row i + 1 of the input
    at = image + long(top) * row + j * C + c
    cells = six_cells(x + (at - row), C, j, W, inside & (top > 0))
    known = add_line(start, six_inner(cells, factor, summand, j, W, top > 0), a0, b0, c0)
    cells = six_inner(six_cells(x + at, C, j, W, inside), factor, summand, j, W, top >= 0)
    known, coming = add_line(known, cells, a1, b1, c1), add_line(start, cells, a0, b0, c0)
    ahead = six_cells(x + (at + row), C, j, W, inside & (top + 1 < H))
    for i in range(top, bottom):
        cells = six_inner(ahead, factor, summand, j, W, i + 1 < H)
        ahead = six_cells(x + (at + 2 * row), C, j, W, inside & (i + 2 < H))
        result = add_line(known, cells, a2, b2, c2)
        known, coming = add_line(coming, cells, a1, b1, c1), add_line(start, cells, a0, b0, c0)
        _finish_four(y, addend, at, C, result, j, W, inside, ACT)
        at += row


@triton.jit
def _nine_cells(at, step, j, W, inside):
    """Cells j - 1 to j + 7, as `six_cells`."""
    more = (
        tl.load(at + 5 * step, mask=inside & (j + 5 < W), other=0.0),
        tl.load(at + 6 * step, mask=inside & (j + 6 < W), other=0.0),
        tl.load(at + 7 * step, mask=inside & (j + 7 < W), other=0.0),
    )
    return six_cells(at, step, j, W, inside) + more


@triton.jit
def _nine_inner(cells, factor, summand, j, W, there):
    """As `six_inner`."""
    if factor is not None:
        more = (
            inner(cells[6], factor, summand, there & (j + 5 < W)),
            inner(cells[7], factor, summand, there & (j + 6 < W)),
            inner(cells[8], factor, summand, there & (j + 7 < W)),
        )
        cells = six_inner(cells[:6], factor, summand, j, W, there) + more
    return cells


@triton.jit
def _three(total, x, y, z, a, b, c):
    return total + x.to(tl.float32) * a + y.to(tl.float32) * b + z.to(tl.float32) * c


@triton.jit
def _add_second(totals, x, a, b, c):
    """As `add_line`, every second cell of nine."""
    return (
        _three(totals[0], x[0], x[1], x[2], a, b, c),
        _three(totals[1], x[2], x[3], x[4], a, b, c),
        _three(totals[2], x[4], x[5], x[6], a, b, c),
        _three(totals[3], x[6], x[7], x[8], a, b, c),
    )


@triton.jit(do_not_specialize=["H", "W", "Ho", "Wo", "down", "across"])
def halving(
    x, scale, shift, weight, bias, addend, y, H, W, Ho, Wo, down, across,
    C: tl.constexpr, ACT: tl.constexpr, LINES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Stride 2: rows 2 i and 2 i + 1 of the input complete row i of the output, the latter begins the next one."""
    program = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    j, top, inside = program % across * 4, program // across % down * LINES, c < C
    bottom, row, image = tl.minimum(top + LINES, Ho), W * C, long(program // (across * down))
    a0, b0, c0 = line(weight, 0, c, C)
    a1, b1, c1 = line(weight, 1, c, C)
    a2, b2, c2 = line(weight, 2, c, C)
    start, factor, summand = _begin(bias, c, inside), None, None
    if scale is not None:
        factor, summand = read(scale + c, inside), read(shift + c, inside)
    at, to = (image * H + 2 * top) * row + 2 * j * C + c, ((image * Ho + top) * Wo + j) * C + c
    cells = _nine_cells(x + (at - row), C, 2 * j, W, inside & (top > 0))
    known = _add_second(start, _nine_inner(cells, factor, summand, 2 * j, W, top > 0), a0, b0, c0)
    even_ahead = _nine_cells(x + at, C, 2 * j, W, inside)
    odd_ahead = _nine_cells(x + (at + row), C, 2 * j, W, inside & (2 * top + 1 < H))
    for i in range(top, bottom):
        even = _nine_inner(even_ahead, factor, summand, 2 * j, W, i >= 0)
        odd = _nine_inner(odd_ahead, factor, summand, 2 * j, W, 2 * i + 1 < H)
        at += 2 * row
        even_ahead = _nine_cells(x + at, C, 2 * j, W, inside & (i + 1 < bottom))
        odd_ahead = _nine_cells(x + (at + row), C, 2 * j, W, inside & (i + 1 < bottom) & (2 * i + 3 < H))
        result = _add_second(_add_second(known, even, a1, b1, c1), odd, a2, b2, c2)
        known = _add_second(start, odd, a0, b0, c0)
        _finish_four(y, addend, to, C, result, j, Wo, inside, ACT)
        to += Wo * C
