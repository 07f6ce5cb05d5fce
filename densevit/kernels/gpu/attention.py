"""Attention inside windows, on maps as they lie in memory. As `source/attention.cpp`.

A program takes a head of as many windows as come to it, and keeps that head's bias and its gradient.
Products of float32 are taken by three of tf32, which is as exact as float32 to a bit or two.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.tiles import (
    PROGRAMS,
    add_partials,
    cdiv,
    exp2,
    halves,
    launch,
    long,
    new_partials,
    power_of_two,
    read,
    window_cells,
    write,
)
from densevit.kernels.gpu.windows import Axes, axes

LOG2_E = tl.constexpr(1.4426950408889634)


def stages(x: Tensor) -> int:
    """Windows, or images, fetched ahead: in float32 more than one does not fit into a processor's memory."""
    return 1 if x.dtype == torch.float32 else 2


def tile_of(count: int) -> int:
    return max(16, power_of_two(count))


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, q_shift: Tensor | None, k_shift: Tensor | None, v_shift: Tensor | None,
    bias: Tensor | None, out: Tensor, B: int, H: int, W: int, heads: int, dim: int, y: tuple[int, ...],
    x: tuple[int, ...], scale: float,
) -> None:  # fmt: skip
    group = axes(y, x)
    windows = B * group.per_image
    arguments = (q, k, v, q_shift, k_shift, v_shift, bias, out, windows, H * W, W, *group, scale)
    grid = min(windows, cdiv(8 * PROGRAMS, heads)), heads
    launch(_windows, grid, arguments, (dim, tile_of(group.tokens), tile_of(dim)), stages=stages(q))


def window_attention_backward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, grad: Tensor, addend: Tensor | None, grad_q: Tensor,
    grad_k: Tensor | None, grad_v: Tensor, grad_bias: Tensor | None, B: int, H: int, W: int, heads: int, dim: int,
    y: tuple[int, ...], x: tuple[int, ...], scale: float,
) -> None:  # fmt: skip
    group = axes(y, x)
    windows = B * group.per_image
    programs = min(windows, cdiv(PROGRAMS, heads))
    partials = None if bias is None else new_partials(programs, heads, group.tokens**2, q)
    arguments = (q, k, v, bias, grad, addend, grad_q, grad_k, grad_v, partials, windows, H * W, W, *group, scale)
    launch(
        _windows_backward, (programs, heads), arguments, (dim, tile_of(group.tokens), tile_of(dim)), stages=stages(q)
    )
    if partials is not None and grad_bias is not None:
        add_partials(partials, grad_bias)


@triton.jit
def read_bias(bias, head, rows, row, count, column):
    """(heads, rows, count) at [head, row, column], for powers of 2; minus infinity beyond the last key."""
    mask = (row < rows)[:, None] & (column < count)[None, :]
    value = tl.where(mask, 0.0, 0.0)
    if bias is not None:
        value += read(bias + (long(head) * rows + row)[:, None] * count + column[None, :], mask)
    return tl.where((column < count)[None, :], value * LOG2_E, float("-inf"))


@triton.jit
def exponentials(query, key, scale, bias):
    """exp(query key^T scale + bias - each row's largest), and the inverse of each row's sum; `bias` by `read_bias`."""
    scores = dot(query, tl.trans(key)) * (scale * LOG2_E) + bias
    scores = exp2(scores - tl.max(scores, axis=1)[:, None])
    return scores, (1.0 / tl.sum(scores, axis=1))[:, None]


@triton.jit
def softmax(query, key, scale, bias):
    scores, inverse = exponentials(query, key, scale, bias)
    return scores * inverse


@triton.jit
def softmax_backward(p, grad):
    """The gradient by the scores from that by their softmax `p`."""
    return p * (grad - tl.sum(p * grad, axis=1)[:, None])


@triton.jit
def dot(a, b):
    """a @ b; of float32 by three products of tf32. Triton's own way to it minds infinities, which do not occur."""
    if a.dtype == tl.float32:
        a_leading, a_rest = halves(a)
        b_leading, b_rest = halves(b)
        total = tl.dot(a_rest, b_leading, input_precision="tf32")
        total = tl.dot(a_leading, b_rest, total, input_precision="tf32")
        return tl.dot(a_leading, b_leading, total, input_precision="tf32")
    return tl.dot(a, b)


@triton.jit
def _load(x, shift, at, mask, channel, inside):
    """Rows of a head in their own type, `shift` added."""
    value = tl.load(x + at, mask=mask, other=0.0)
    if shift is not None:
        value = (value.to(tl.float32) + read(shift + channel, inside)[None, :]).to(value.dtype)
    return value


@triton.jit(do_not_specialize=[*Axes._fields, "windows", "area", "W"])
def _windows(
    q, k, v, q_shift, k_shift, v_shift, bias, out, windows, area, W, top, down_span, down_step, down_width, left,
    across_span, across_step, across_width, columns, per_image, per_row, tokens, scale,
    D: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    head, C = tl.program_id(1), tl.num_programs(1) * D
    t, d = tl.arange(0, TOKENS), tl.arange(0, WIDTH)
    mask, channel = (t < tokens)[:, None] & (d < D)[None, :], head * D + d
    b = read_bias(bias, head, tokens, t, tokens, t)
    for n in range(tl.program_id(0), windows, tl.num_programs(0)):
        cells = window_cells(
            n % per_image, t, W, top, down_span, down_step, down_width, left, across_span, across_step, across_width,
            columns, per_row,
        )  # fmt: skip
        at = (long(n // per_image) * area + cells)[:, None] * C + channel[None, :]
        query, key = _load(q, q_shift, at, mask, channel, d < D), _load(k, k_shift, at, mask, channel, d < D)
        p, inverse = exponentials(query, key, scale, b)
        value = _load(v, v_shift, at, mask, channel, d < D)
        write(out + at, dot(p.to(value.dtype), value) * inverse, mask)


@triton.jit(do_not_specialize=[*Axes._fields, "windows", "area", "W"])
def _windows_backward(
    q, k, v, bias, grad, addend, grad_q, grad_k, grad_v, partials, windows, area, W, top, down_span, down_step,
    down_width, left, across_span, across_step, across_width, columns, per_image, per_row, tokens, scale,
    D: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Without grad_k, where k is q, its gradient is in grad_q."""
    head, C = tl.program_id(1), tl.num_programs(1) * D
    t, d = tl.arange(0, TOKENS), tl.arange(0, WIDTH)
    mask, channel = (t < tokens)[:, None] & (d < D)[None, :], head * D + d
    b = read_bias(bias, head, tokens, t, tokens, t)
    of_bias = tl.zeros((TOKENS, TOKENS), dtype=tl.float32)
    for n in range(tl.program_id(0), windows, tl.num_programs(0)):
        cells = window_cells(
            n % per_image, t, W, top, down_span, down_step, down_width, left, across_span, across_step, across_width,
            columns, per_row,
        )  # fmt: skip
        at = (long(n // per_image) * area + cells)[:, None] * C + channel[None, :]
        query, key = tl.load(q + at, mask=mask, other=0.0), tl.load(k + at, mask=mask, other=0.0)
        value, g = tl.load(v + at, mask=mask, other=0.0), tl.load(grad + at, mask=mask, other=0.0)
        p = softmax(query, key, scale, b)
        write(grad_v + at, dot(tl.trans(p.to(g.dtype)), g), mask)
        of_scores = softmax_backward(p, dot(g, tl.trans(value)))
        of_bias += of_scores
        of_scores = of_scores.to(key.dtype)
        of_query, of_key = dot(of_scores, key) * scale, dot(tl.trans(of_scores), query) * scale
        if addend is not None:
            of_query += read(addend + at, mask)
        if grad_k is None:
            write(grad_q + at, of_query + of_key, mask)
        else:
            write(grad_q + at, of_query, mask)
            write(grad_k + at, of_key, mask)
    if partials is not None:
        to = long(tl.program_id(0) * tl.num_programs(1) + head) * tokens * tokens
        tl.store(
            partials + to + t[:, None] * tokens + t[None, :],
            of_bias,
            mask=(t < tokens)[:, None] & (t < tokens)[None, :],
        )
