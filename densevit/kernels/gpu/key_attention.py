"""Attention of every cell of a map on keys of its own (HLG's global step). As `source/attention.cpp`."""

import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.attention import dot, exponentials, read_bias, softmax, softmax_backward, stages, tile_of
from densevit.kernels.gpu.tiles import PROGRAMS, add_partials, cdiv, launch, long, new_partials, write

QUERIES = 64


def key_attention(
    q: Tensor, q_step: int, k: Tensor, v: Tensor, kv_step: int, bias: Tensor | None, out: Tensor, B: int, N: int,
    M: int, heads: int, dim: int, scale: float,
) -> None:  # fmt: skip
    blocks = cdiv(N, QUERIES)
    grid = min(B, cdiv(8 * PROGRAMS, blocks * heads)), blocks, heads
    arguments = (q, q_step, k, v, kv_step, bias, out, B, N, M, scale)
    launch(_keys, grid, arguments, (dim, QUERIES, tile_of(M), tile_of(dim)), stages=stages(q))


def key_attention_backward(
    q: Tensor, q_step: int, k: Tensor, v: Tensor, kv_step: int, bias: Tensor | None, grad: Tensor, grad_q: Tensor,
    grad_kv: Tensor, grad_bias: Tensor | None, B: int, N: int, M: int, heads: int, dim: int, parts: int, scale: float,
) -> None:  # fmt: skip
    sizes = (dim, QUERIES, tile_of(M), tile_of(dim))
    blocks = cdiv(N, QUERIES)
    programs = min(B, cdiv(PROGRAMS, blocks * heads))
    partials = None if bias is None else new_partials(programs, heads, N * M, q)
    arguments = (q, q_step, k, v, kv_step, bias, grad, grad_q, partials, B, N, M, scale)
    launch(_keys_backward, (programs, blocks, heads), arguments, sizes, stages=stages(q))
    if partials is not None and grad_bias is not None:
        add_partials(partials, grad_bias)
    each = cdiv(blocks, parts)
    of_keys = (q, q_step, k, v, kv_step, bias, grad, grad_kv, B, N, M, each, scale)
    launch(_of_keys, (B, parts, heads), of_keys, sizes, stages=stages(q))


@triton.jit
def _rows(x, image, count, step, row, channel, mask):
    return tl.load(x + (long(image) * count + row)[:, None] * step + channel[None, :], mask=mask, other=0.0)


@triton.jit(do_not_specialize=["B", "N", "M"])
def _keys(
    q, q_step, k, v, kv_step, bias, out, B, N, M, scale,
    D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    head, C = tl.program_id(2), tl.num_programs(2) * D
    n, m, d = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES), tl.arange(0, KEYS), tl.arange(0, WIDTH)
    channel, queries = head * D + d, (n < N)[:, None] & (d < D)[None, :]
    keys = (m < M)[:, None] & (d < D)[None, :]
    b = read_bias(bias, head, N, n, M, m)
    for image in range(tl.program_id(0), B, tl.num_programs(0)):
        query = _rows(q, image, N, q_step, n, channel, queries)
        p, inverse = exponentials(query, _rows(k, image, M, kv_step, m, channel, keys), scale, b)
        value = _rows(v, image, M, kv_step, m, channel, keys)
        at = (long(image) * N + n)[:, None] * C + channel[None, :]
        write(out + at, dot(p.to(value.dtype), value) * inverse, queries)


@triton.jit(do_not_specialize=["B", "N", "M"])
def _keys_backward(
    q, q_step, k, v, kv_step, bias, grad, grad_q, partials, B, N, M, scale,
    D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients of the queries and of the bias: a block of queries of many images, which share their bias."""
    head, C = tl.program_id(2), tl.num_programs(2) * D
    n, m, d = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES), tl.arange(0, KEYS), tl.arange(0, WIDTH)
    channel, queries = head * D + d, (n < N)[:, None] & (d < D)[None, :]
    keys = (m < M)[:, None] & (d < D)[None, :]
    b = read_bias(bias, head, N, n, M, m)
    of_bias = tl.zeros((QUERIES, KEYS), dtype=tl.float32)
    for image in range(tl.program_id(0), B, tl.num_programs(0)):
        query, key = (
            _rows(q, image, N, q_step, n, channel, queries), _rows(k, image, M, kv_step, m, channel, keys)
        )  # fmt: skip
        g, value = _rows(grad, image, N, C, n, channel, queries), _rows(v, image, M, kv_step, m, channel, keys)
        p = softmax(query, key, scale, b)
        of_scores = softmax_backward(p, dot(g, tl.trans(value)))
        of_bias += of_scores
        at = (long(image) * N + n)[:, None] * C + channel[None, :]
        write(grad_q + at, dot(of_scores.to(key.dtype), key) * scale, queries)
    if partials is not None:
        to = (long(tl.program_id(0) * tl.num_programs(2) + head) * N + n)[:, None] * M + m[None, :]
        tl.store(partials + to, of_bias, mask=(n < N)[:, None] & (m < M)[None, :])


@triton.jit(do_not_specialize=["B", "N", "M", "each"])
def _of_keys(
    q, q_step, k, v, kv_step, bias, grad, grad_kv, B, N, M, each, scale,
    D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """grad_kv (parts, B, 2, M, C): of an image's keys and values by `each` blocks of its queries."""
    image, part, head, C = tl.program_id(0), tl.program_id(1), tl.program_id(2), tl.num_programs(2) * D
    m, d = tl.arange(0, KEYS), tl.arange(0, WIDTH)
    channel, keys = head * D + d, (m < M)[:, None] & (d < D)[None, :]
    key, value = _rows(k, image, M, kv_step, m, channel, keys), _rows(v, image, M, kv_step, m, channel, keys)
    of_key, of_value = tl.zeros((KEYS, WIDTH), dtype=tl.float32), tl.zeros((KEYS, WIDTH), dtype=tl.float32)
    for block in range(part * each, tl.minimum((part + 1) * each, tl.cdiv(N, QUERIES))):
        n = block * QUERIES + tl.arange(0, QUERIES)
        queries = (n < N)[:, None] & (d < D)[None, :]
        query, g = _rows(q, image, N, q_step, n, channel, queries), _rows(grad, image, N, C, n, channel, queries)
        b = read_bias(bias, head, N, n, M, m)
        p = softmax(query, key, scale, b)
        of_value += dot(tl.trans(p.to(g.dtype)), g)
        of_scores = softmax_backward(p, dot(g, tl.trans(value)))
        of_key += dot(tl.trans(of_scores.to(query.dtype)), query)
    at = (long(part * B + image) * 2 * M + m)[:, None] * C + channel[None, :]
    write(grad_kv + at, of_key * scale, keys)
    write(grad_kv + at + long(M) * C, of_value, keys)
