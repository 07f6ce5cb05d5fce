"""Statistics of batch norms, and the gradients of norms and GELU. As `source/norm_backward.cpp`."""

import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.tiles import (
    PROGRAMS,
    add_partials,
    cdiv,
    channel_tile,
    gelu_parts,
    launch,
    new_partials,
    read,
    row_tile,
    tile,
    write,
)

ROWS = 16
"""Rows of a tile in a pass that adds up rows."""


def _share(rows: int, channels: int) -> tuple[int, int, int]:
    """Channels of a tile, programs along the rows, and tiles that each takes."""
    width = channel_tile(channels)
    tiles = cdiv(rows, ROWS)
    each = cdiv(tiles, max(1, PROGRAMS // cdiv(channels, width)))
    return width, cdiv(tiles, each), each


def batch_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, running_mean: Tensor, running_var: Tensor, vectors: Tensor, rows: int,
    channels: int, momentum: float, eps: float,
) -> None:  # fmt: skip
    """vectors (4, C) <- scale, shift, mean and inverse deviation of the batch's norm; running statistics moved on."""
    width, programs, each = _share(rows, channels)
    partials = new_partials(programs, 2, channels, x)
    grid = programs, cdiv(channels, width)
    launch(_statistics, grid, (x, partials, rows, channels, each), (ROWS, width))
    running = (running_mean, running_var)
    arguments = (x, partials, gamma, beta, *running, vectors, programs, rows, channels, momentum, eps)
    launch(_finish_norm, (cdiv(channels, 32),), arguments, (64, 32))


@triton.jit(do_not_specialize=["rows", "each"])
def _statistics(x, partials, rows, channels, each, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Sums of x - x[0] and of its square: the first row is near enough to the mean for the squares to lose nothing."""
    first, block = tl.program_id(0), tl.program_id(1)
    column = block * CHANNELS + tl.arange(0, CHANNELS)
    centre = read(x + column, column < channels)[None, :]
    total, squares = tl.zeros((ROWS, CHANNELS), dtype=tl.float32), tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    for step in range(0, each):
        _, _, at, mask = tile(rows, channels, first * each + step, block, ROWS, CHANNELS)
        value = tl.where(mask, read(x + at, mask) - centre, 0.0)
        total += value
        squares += value * value
    to = partials + first * 2 * channels + column
    tl.store(to, tl.sum(total, axis=0), mask=column < channels)
    tl.store(to + channels, tl.sum(squares, axis=0), mask=column < channels)


@triton.jit(do_not_specialize=["count", "rows"])
def _finish_norm(
    x, partials, gamma, beta, running_mean, running_var, vectors, count, rows, channels, momentum, eps,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    row, inside = tl.arange(0, ROWS), column < channels
    total, squares = tl.zeros((ROWS, CHANNELS), dtype=tl.float32), tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    for first in range(0, count, ROWS):
        mask = (first + row < count)[:, None] & inside[None, :]
        at = partials + (first + row)[:, None] * 2 * channels + column[None, :]
        total += tl.load(at, mask=mask, other=0.0)
        squares += tl.load(at + channels, mask=mask, other=0.0)
    distance = tl.sum(total, axis=0) / rows
    mean = read(x + column, inside) + distance
    var = tl.maximum(tl.sum(squares, axis=0) / rows - distance * distance, 0.0)
    inverse = 1.0 / tl.sqrt(var + eps)
    scale = read(gamma + column, inside) * inverse
    tl.store(vectors + column, scale, mask=inside)
    tl.store(vectors + channels + column, read(beta + column, inside) - mean * scale, mask=inside)
    tl.store(vectors + 2 * channels + column, mean, mask=inside)
    tl.store(vectors + 3 * channels + column, inverse, mask=inside)
    old_mean, old_var = read(running_mean + column, inside), read(running_var + column, inside)
    unbiased = var * (rows / (rows - 1.0))
    write(running_mean + column, old_mean + momentum * (mean - old_mean), inside)
    write(running_var + column, old_var + momentum * (unbiased - old_var), inside)


def column_sums(x: Tensor, sums: Tensor, rows: int, channels: int) -> None:
    """sums (C,) += x.sum(dim=0)"""
    width, programs, each = _share(rows, channels)
    partials, grid = new_partials(programs, 1, channels, x), (programs, cdiv(channels, width))
    launch(_column_sums, grid, (x, partials, rows, channels, each), (ROWS, width))
    add_partials(partials, sums)


@triton.jit(do_not_specialize=["rows", "each"])
def _column_sums(x, partials, rows, channels, each, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    first, block = tl.program_id(0), tl.program_id(1)
    column, total = block * CHANNELS + tl.arange(0, CHANNELS), tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    for step in range(0, each):
        _, _, at, mask = tile(rows, channels, first * each + step, block, ROWS, CHANNELS)
        total += read(x + at, mask)
    tl.store(partials + first * channels + column, tl.sum(total, axis=0), mask=column < channels)


def gelu_backward(
    x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, grad: Tensor, output: Tensor | None, sums: Tensor,
    rows: int, channels: int,
) -> None:  # fmt: skip
    _gelu_gradients(None, x, scale, shift, mean, grad, grad, output, sums, rows, channels)


def add_gelu_backward(
    x: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, grad: Tensor, grad_x: Tensor, sums: Tensor,
    rows: int, channels: int,
) -> None:  # fmt: skip
    _gelu_gradients(x, y, scale, shift, mean, grad, grad_x, None, sums, rows, channels)


def _gelu_gradients(
    x: Tensor | None, y: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, grad: Tensor, grad_x: Tensor,
    output: Tensor | None, sums: Tensor, rows: int, channels: int,
) -> None:  # fmt: skip
    width, programs, each = _share(rows, channels)
    partials, grid = new_partials(programs, 2, channels, y), (programs, cdiv(channels, width))
    arguments = (x, y, scale, shift, mean, grad, grad_x, output, partials, rows, channels, each)
    launch(_gelu_backward, grid, arguments, (ROWS, width))
    add_partials(partials, sums)


@triton.jit(do_not_specialize=["rows", "each"])
def _gelu_backward(
    x, y, scale, shift, mean, grad, grad_x, output, partials, rows, channels, each,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    first, block = tl.program_id(0), tl.program_id(1)
    column = block * CHANNELS + tl.arange(0, CHANNELS)
    inside = column < channels
    a, b = read(scale + column, inside)[None, :], read(shift + column, inside)[None, :]
    centre = read(mean + column, inside)[None, :]
    total, along = tl.zeros((ROWS, CHANNELS), dtype=tl.float32), tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    for step in range(0, each):
        _, _, at, mask = tile(rows, channels, first * each + step, block, ROWS, CHANNELS)
        value = read(y + at, mask)
        normed = value * a + b
        if x is not None:
            normed += read(x + at, mask)
        activated, slope = gelu_parts(normed)
        d = read(grad + at, mask) * slope
        if output is not None:
            write(output + at, activated, mask)
        write(grad_x + at, d, mask)
        total += d
        along += d * (value - centre)
    to = partials + first * 2 * channels + column
    tl.store(to, tl.sum(total, axis=0), mask=inside)
    tl.store(to + channels, tl.sum(along, axis=0), mask=inside)


def norm_backward(
    x: Tensor, scale: Tensor, mean: Tensor, inverse_std: Tensor, sums: Tensor, grad: Tensor, grad_x: Tensor, rows: int,
    channels: int, cells: int,
) -> None:  # fmt: skip
    width = channel_tile(channels)
    height = 4096 // width
    grid = cdiv(rows, height), cdiv(channels, width)
    arguments = (x, scale, mean, inverse_std, sums, grad, grad_x, rows, channels, cells)
    launch(_norm_backward, grid, arguments, (height, width))


@triton.jit(do_not_specialize=["rows", "cells"])
def _norm_backward(
    x, scale, mean, inverse_std, sums, grad, grad_x, rows, channels, cells,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    _, column, at, mask = tile(rows, channels, tl.program_id(0), tl.program_id(1), ROWS, CHANNELS)
    inside = column < channels
    inverse, offset = read(inverse_std + column, inside), read(sums + column, inside) / cells
    slope = read(sums + channels + column, inside) / cells * inverse * inverse
    away = (read(x + at, mask) - read(mean + column, inside)[None, :]) * slope[None, :]
    d = read(grad + at, mask) - offset[None, :] - away
    write(grad_x + at, d * read(scale + column, inside)[None, :], mask)


def layer_norm_backward(
    x: Tensor, weight: Tensor, grad: Tensor, factors: Tensor | None, addend: Tensor | None, grad_x: Tensor,
    sums: Tensor, rows: int, channels: int, per_image: int, eps: float,
) -> None:  # fmt: skip
    height, width = row_tile(channels)
    tiles = cdiv(rows, height)
    each = cdiv(tiles, PROGRAMS)
    partials = new_partials(cdiv(tiles, each), 2, channels, x)
    arguments = (x, weight, grad, factors, addend, grad_x, partials, rows, channels, per_image, each, eps)
    launch(_layer_norm_backward, (len(partials),), arguments, (height, width))
    add_partials(partials, sums)


@triton.jit(do_not_specialize=["rows", "per_image", "each"])
def _layer_norm_backward(
    x, weight, grad, factors, addend, grad_x, partials, rows, channels, per_image, each, eps,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    first, column = tl.program_id(0), tl.arange(0, CHANNELS)
    inside = column < channels
    gain = read(weight + column, inside)[None, :]
    by_weight, by_bias = tl.zeros((ROWS, CHANNELS), dtype=tl.float32), tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    for step in range(0, each):
        row, _, at, mask = tile(rows, channels, first * each + step, 0, ROWS, CHANNELS)
        value, d = read(x + at, mask), read(grad + at, mask)
        if factors is not None:
            d *= read(factors + row // per_image, row < rows)[:, None]
        centred = tl.where(inside[None, :], value - tl.sum(value, axis=1)[:, None] / channels, 0.0)
        inverse = tl.rsqrt(tl.sum(centred * centred, axis=1) / channels + eps)[:, None]
        normed, weighted = centred * inverse, d * gain
        by_weight += d * normed
        by_bias += d
        offset = tl.sum(weighted, axis=1)[:, None] / channels
        slope = tl.sum(weighted * normed, axis=1)[:, None] / channels
        result = inverse * (weighted - offset - normed * slope)
        if addend is not None:
            result += read(addend + at, mask)
        write(grad_x + at, result, mask)
    to = partials + first * 2 * channels + column
    tl.store(to, tl.sum(by_weight, axis=0), mask=inside)
    tl.store(to + channels, tl.sum(by_bias, axis=0), mask=inside)
