"""Steps that see one cell of a map at a time: norms, GELU and sums on the way. As `source/rows.cpp`."""

import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.tiles import cdiv, channel_tile, gelu, launch, read, row_tile, tile, write


def affine_gelu(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor, rows: int, channels: int) -> None:
    add_gelu(None, x, scale, shift, out, rows, channels)


def add_gelu(x: Tensor | None, y: Tensor, scale: Tensor, shift: Tensor, out: Tensor, rows: int, channels: int) -> None:
    width = channel_tile(channels)
    height = 4096 // width
    grid = cdiv(rows, height), cdiv(channels, width)
    launch(_add_gelu, grid, (x, y, scale, shift, out, rows, channels), (height, width))


@triton.jit(do_not_specialize=["rows"])
def _add_gelu(x, y, scale, shift, out, rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    _, channel, at, mask = tile(rows, channels, tl.program_id(0), tl.program_id(1), ROWS, CHANNELS)
    inside = channel < channels
    value = read(y + at, mask) * read(scale + channel, inside)[None, :] + read(shift + channel, inside)[None, :]
    if x is not None:
        value += read(x + at, mask)
    write(out + at, gelu(value), mask)


def norm_add(
    x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, residual: Tensor | None, factors: Tensor | None,
    out: Tensor, rows: int, channels: int, per_image: int, eps: float,
) -> None:  # fmt: skip
    tile = row_tile(channels)
    arguments = (x, shift, weight, bias, residual, factors, out, rows, channels, per_image, eps)
    launch(_norm_add, (cdiv(rows, tile[0]),), arguments, tile)


@triton.jit
def _layer_norm(x, weight, bias, channel, channels, eps):
    """LN of the tile's rows; `x` is zero beyond the last channel."""
    inside = channel < channels
    centred = tl.where(inside[None, :], x - tl.sum(x, axis=1)[:, None] / channels, 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, axis=1) / channels + eps)
    return centred * inverse[:, None] * read(weight + channel, inside)[None, :] + read(bias + channel, inside)[None, :]


@triton.jit(do_not_specialize=["rows", "per_image"])
def _norm_add(
    x, shift, weight, bias, residual, factors, out, rows, channels, per_image, eps,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    row, channel, at, mask = tile(rows, channels, tl.program_id(0), 0, ROWS, CHANNELS)
    value = read(x + at, mask)
    if shift is not None:
        value += read(shift + channel, channel < channels)[None, :]
    value = _layer_norm(value, weight, bias, channel, channels, eps)
    if factors is not None:
        value *= read(factors + row // per_image, row < rows)[:, None]
    if residual is not None:
        value += read(residual + at, mask)
    write(out + at, value, mask)


def add_gelu_norm(
    x: Tensor, y: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, rows: int, channels: int,
    eps: float,
) -> None:  # fmt: skip
    tile = row_tile(channels)
    arguments = (x, y, scale, shift, weight, bias, rows, channels, eps)
    launch(_add_gelu_norm, (cdiv(rows, tile[0]),), arguments, tile)


@triton.jit(do_not_specialize=["rows"])
def _add_gelu_norm(
    x, y, scale, shift, weight, bias, rows, channels, eps, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    _, channel, at, mask = tile(rows, channels, tl.program_id(0), 0, ROWS, CHANNELS)
    inside = channel < channels
    value = read(y + at, mask) * read(scale + channel, inside)[None, :] + read(shift + channel, inside)[None, :]
    value = gelu(value + read(x + at, mask))
    write(x + at, value, mask)
    write(y + at, _layer_norm(value, weight, bias, channel, channels, eps), mask)


def add_norm(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, total: Tensor, normed: Tensor, rows: int, channels: int,
    eps: float,
) -> None:  # fmt: skip
    tile = row_tile(channels)
    launch(_add_norm, (cdiv(rows, tile[0]),), (x, y, weight, bias, total, normed, rows, channels, eps), tile)


@triton.jit(do_not_specialize=["rows"])
def _add_norm(x, y, weight, bias, total, normed, rows, channels, eps, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    _, channel, at, mask = tile(rows, channels, tl.program_id(0), 0, ROWS, CHANNELS)
    value = read(y + at, mask)
    write(total + at, value + read(x + at, mask), mask)
    write(normed + at, _layer_norm(value, weight, bias, channel, channels, eps), mask)
