"""What the GPU kernels share: GELU, the size of tiles, sums over a map in a fixed order.

A map is taken as (rows, channels). Sums over its rows are written down per program and added up by a second kernel, never
by atomics, so that a result is the same each time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 2048
"""About so many programs share one pass over a map that adds up rows."""


def channel_tile(channels: int, largest: int = 128) -> int:
    """Channels of one tile: a power of two that divides them where it is wide enough to be read in one go."""
    even = channels & -channels
    return min(even, largest) if even >= 32 else min(triton.next_power_of_2(channels), largest)


def row_tile(channels: int, elements: int = 2048) -> tuple[int, int]:
    """Rows and (padded) channels of a tile that holds whole rows."""
    width = triton.next_power_of_2(channels)
    return max(1, elements // width), width


def new_partials(count: int, sums: int, channels: int, like: Tensor) -> Tensor:
    """Where each of `count` programs writes its own sums."""
    return torch.empty((count, sums, channels), dtype=torch.float32, device=like.device)


def add_partials(partials: Tensor, sums: Tensor) -> None:
    """sums += partials.sum(dim=0)"""
    count, columns = len(partials), partials[0].numel()
    _add_partials[(triton.cdiv(columns, 64),)](partials, sums, count, columns, ROWS=32, COLUMNS=64)


@triton.jit
def _add_partials(partials, sums, count, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row, inside = tl.arange(0, ROWS), column < columns
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, count, ROWS):
        at = first + row
        mask = (at < count)[:, None] & inside[None, :]
        total += tl.load(partials + long(at[:, None]) * columns + column[None, :], mask=mask, other=0.0)
    tl.store(sums + column, tl.load(sums + column, mask=inside, other=0.0) + tl.sum(total, axis=0), mask=inside)


@triton.jit
def long(x):
    """In 64 bits; `x` may be a number."""
    return tl.full((), 0, tl.int64) + x


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_slope(x):
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit
def read(pointer, mask):
    """As float32, zero where masked."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def write(pointer, value, mask):
    tl.store(pointer, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def tile(rows, channels, row_block, channel_block, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Row, channel and offset of every element of a tile, and which of them exist."""
    row = row_block * ROWS + tl.arange(0, ROWS)
    channel = channel_block * CHANNELS + tl.arange(0, CHANNELS)
    mask = (row < rows)[:, None] & (channel < channels)[None, :]
    return row, channel, long(row[:, None]) * channels + channel[None, :], mask


@triton.jit
def window_cells(
    n, t, W, top, down_span, down_step, down_width, left, across_span, across_step, across_width, columns, per_row
):  # fmt: skip
    """Cells y * W + x of tokens `t` of window `n`."""
    i, j = n // columns, n % columns
    row = top + i // down_width * down_span + i % down_width + t // per_row * down_step
    column = left + j // across_width * across_span + j % across_width + t % per_row * across_step
    return row * W + column
