"""The little MLP of a dynamic position bias, laid out for attention, in three kernels where PyTorch takes some fifty.

Shapes: Uy Ux distinct offsets, H W query map, nh nw keys, N = H * W, M = nh * nw. Weights are those of Linear(2, dim),
then three times LayerNorm and Linear, weight and bias each. Sums are float32, in a fixed order.
"""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.attention import dot
from densevit.kernels.gpu.tiles import add_partials, cdiv, launch, new_partials, power_of_two, read, write

OFFSETS = 32
"""Offsets that a program takes at a time; half as many where the keys are many."""
WIDEST = 2**14
"""Elements of a tile of offsets, heads and keys beside each other."""


def _tiles(heads: int, dim: int) -> tuple[int, int]:
    return max(16, power_of_two(heads)), max(16, power_of_two(dim))


def fits_position_bias(heads: int, dim: int, keys_across: int) -> bool:
    """Whether a tile of the backward pass fits."""
    padded, width = _tiles(heads, dim)
    return width <= 64 and OFFSETS // 2 * padded * power_of_two(keys_across) <= WIDEST


def position_bias(
    y: Tensor, x: Tensor, index_y: Tensor, index_x: Tensor, weights: Sequence[Tensor], table: Tensor, bias: Tensor,
    eps: float, sizes: Sequence[int],
) -> None:  # fmt: skip
    """table (heads, Uy, Ux), bias (heads, N, M) <- by offsets y (Uy,), x (Ux,) and their indices (H, nh), (W, nw)."""
    heads, dim, down, across, H, W, nh, nw = sizes
    padded, width = _tiles(heads, dim)
    arguments = (y, x, *weights, table, down * across, across, heads, dim, eps)
    launch(_table, (cdiv(down * across, OFFSETS),), arguments, (OFFSETS, padded, width), warps=max(4, width // 8))
    pairs = H * W * nh * nw
    arguments = (table, index_y, index_x, bias, down * across, across, pairs, W, nh * nw, nw)
    launch(_lay_out, (cdiv(pairs, 1024), heads), arguments, (1024,))


def position_bias_backward(
    y: Tensor, x: Tensor, query_y: Tensor, query_x: Tensor, weights: Sequence[Tensor], grad: Tensor, sums: Tensor,
    eps: float, sizes: Sequence[int],
) -> None:  # fmt: skip
    """To `sums` are added the gradients of all weights, in turn. `query_y` (Uy, nh) is the inverse of `index_y`."""
    heads, dim, down, across, H, W, nh, nw = sizes
    padded, width = _tiles(heads, dim)
    keys = power_of_two(nw)
    offsets = OFFSETS if OFFSETS * padded * keys <= WIDEST else OFFSETS // 2
    partials = new_partials(cdiv(down * across, offsets), 1, len(sums), y)
    counts = (down * across, across, heads, dim, H * W, nh * nw, W, nh, nw, len(sums))
    arguments = (y, x, query_y, query_x, *weights, grad, partials, *counts, eps)
    launch(_table_backward, (len(partials),), arguments, (offsets, padded, width, keys), warps=8)
    add_partials(partials, sums)


@triton.jit
def _first(y, x, u, count, across, weight, bias, d, dim):
    """Offsets `u`, and the first layer on them."""
    down, right = read(y + u // across, u < count)[:, None], read(x + u % across, u < count)[:, None]
    by_y, by_x = read(weight + 2 * d, d < dim)[None, :], read(weight + 2 * d + 1, d < dim)[None, :]
    return down, right, down * by_y + right * by_x + read(bias + d, d < dim)[None, :]


@triton.jit
def _norm(h, d, dim, eps):
    """(h - mean) / deviation, and 1 / deviation; zero beyond `dim`."""
    centred = tl.where((d < dim)[None, :], h - tl.sum(h, axis=1)[:, None] / dim, 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, axis=1) / dim + eps)[:, None]
    return centred * inverse, inverse


@triton.jit
def _rectified(normed, gain, shift, d, dim):
    scaled = normed * read(gain + d, d < dim)[None, :] + read(shift + d, d < dim)[None, :]
    return tl.maximum(scaled, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _matrix(weight, n, width, d, dim):
    return read(weight + n[:, None] * dim + d[None, :], (n < width)[:, None] & (d < dim)[None, :])


@triton.jit
def _layer(h, gain, shift, weight, bias, n, width, d, dim, eps):
    normed, _ = _norm(h, d, dim, eps)
    rectified = _rectified(normed, gain, shift, d, dim)
    return dot(rectified, tl.trans(_matrix(weight, n, width, d, dim))) + read(bias + n, n < width)[None, :]


@triton.jit(do_not_specialize=["count", "across", "heads", "dim"])
def _table(
    y, x, w0, b0, g1, s1, w1, b1, g2, s2, w2, b2, g3, s3, w3, b3, table, count, across, heads, dim, eps,
    OFFSETS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    u, n, d = tl.program_id(0) * OFFSETS + tl.arange(0, OFFSETS), tl.arange(0, HEADS), tl.arange(0, WIDTH)
    _, _, h = _first(y, x, u, count, across, w0, b0, d, dim)
    h = _layer(h, g1, s1, w1, b1, d, dim, d, dim, eps)
    h = _layer(h, g2, s2, w2, b2, d, dim, d, dim, eps)
    h = _layer(h, g3, s3, w3, b3, n, heads, d, dim, eps)
    tl.store(table + n[None, :] * count + u[:, None], h, mask=(u < count)[:, None] & (n < heads)[None, :])


@triton.jit(do_not_specialize=["count", "across", "pairs", "W", "M", "nw"])
def _lay_out(table, index_y, index_x, bias, count, across, pairs, W, M, nw, BLOCK: tl.constexpr):
    head, pair = tl.program_id(1), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    query, key, inside = pair // M, pair % M, pair < pairs
    i = tl.load(index_y + query // W * (M // nw) + key // nw, mask=inside, other=0)
    j = tl.load(index_x + query % W * nw + key % nw, mask=inside, other=0)
    value = tl.load(table + head * count + i * across + j, mask=inside, other=0.0)
    write(bias + head.to(tl.int64) * pairs + pair, value, inside)


@triton.jit
def _of_offsets(grad, query_y, query_x, u, count, across, n, heads, N, M, W, nh, nw, KEYS: tl.constexpr):
    """(OFFSETS, HEADS): the gradient of each offset is summed over the keys; the offset tells a key's query."""
    b, total = tl.arange(0, KEYS), tl.zeros((u.shape[0], n.shape[0], KEYS), dtype=tl.float32)
    column = tl.load(query_x + (u % across)[:, None] * nw + b[None, :], mask=(b < nw)[None, :], other=-1)
    for a in range(0, nh):
        line = tl.load(query_y + u // across * nh + a, mask=u < count, other=-1)[:, None]
        mask = ((line >= 0) & (column >= 0))[:, None, :] & (n < heads)[None, :, None]
        row = n[None, :, None] * N + (line * W + column)[:, None, :]
        total += read(grad + row * M + a * nw + b[None, None, :], mask)
    return tl.sum(total, axis=2)


@triton.jit
def _layer_backward(to, h, g, gain, shift, weight, n, width, d, dim, eps):
    """The gradient by a layer's input from that by its output; `to` takes those by gain, shift, weight and bias."""
    normed, inverse = _norm(h, d, dim, eps)
    rectified = _rectified(normed, gain, shift, d, dim)
    of_normed = tl.where(rectified > 0, dot(g, _matrix(weight, n, width, d, dim)), 0.0)
    tl.store(to + d, tl.sum(of_normed * normed, axis=0), mask=d < dim)
    tl.store(to + dim + d, tl.sum(of_normed, axis=0), mask=d < dim)
    at, mask = to + 2 * dim + n[:, None] * dim + d[None, :], (n < width)[:, None] & (d < dim)[None, :]
    tl.store(at, dot(tl.trans(g), rectified), mask=mask)
    tl.store(to + (2 + width) * dim + n, tl.sum(g, axis=0), mask=n < width)
    scaled = of_normed * read(gain + d, d < dim)[None, :]
    offset, slope = tl.sum(scaled, axis=1)[:, None] / dim, tl.sum(scaled * normed, axis=1)[:, None] / dim
    return tl.where((d < dim)[None, :], inverse * (scaled - offset - normed * slope), 0.0)


@triton.jit(do_not_specialize=["count", "across", "heads", "dim", "N", "M", "W", "nh", "nw", "size"])
def _table_backward(
    y, x, query_y, query_x, w0, b0, g1, s1, w1, b1, g2, s2, w2, b2, g3, s3, w3, b3, grad, partials, count, across,
    heads, dim, N, M, W, nh, nw, size, eps,
    OFFSETS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    u, n, d = tl.program_id(0) * OFFSETS + tl.arange(0, OFFSETS), tl.arange(0, HEADS), tl.arange(0, WIDTH)
    down, right, h0 = _first(y, x, u, count, across, w0, b0, d, dim)
    h1 = _layer(h0, g1, s1, w1, b1, d, dim, d, dim, eps)
    h2 = _layer(h1, g2, s2, w2, b2, d, dim, d, dim, eps)
    g = _of_offsets(grad, query_y, query_x, u, count, across, n, heads, N, M, W, nh, nw, KEYS)
    to = partials + tl.program_id(0) * size
    of_last = to + 3 * dim + 2 * (dim + 3) * dim
    g = _layer_backward(of_last, h2, g, g3, s3, w3, n, heads, d, dim, eps)
    g = _layer_backward(to + 3 * dim + (dim + 3) * dim, h1, g, g2, s2, w2, d, dim, d, dim, eps)
    g = _layer_backward(to + 3 * dim, h0, g, g1, s1, w1, d, dim, d, dim, eps)
    tl.store(to + 2 * d, tl.sum(g * down, axis=0), mask=d < dim)
    tl.store(to + 2 * d + 1, tl.sum(g * right, axis=0), mask=d < dim)
    tl.store(to + 2 * dim + d, tl.sum(g, axis=0), mask=d < dim)
