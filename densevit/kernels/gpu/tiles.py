"""What the GPU kernels share: GELU, the size of tiles, sums over a map in a fixed order.

A map is taken as (rows, channels). Sums over its rows are written down per program and added up by a second kernel, not
by atomics, so that a result is the same each time.
"""

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 1024
"""About so many programs share one pass over a map that adds up rows."""


BARE = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")
"""Whether exponentials and inverses are taken as a GPU gives them.

Triton adds instructions for very small and very large numbers, which do not occur in GELU: a third of all that it
takes. The interpreter knows Triton's own only.
"""

_compiled: dict[Any, Any] = {}


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    arguments: tuple[Any, ...],
    constants: tuple[Any, ...] = (),
    *,
    warps: int = 4,
    stages: int = 3,
) -> None:
    """kernel[grid](*arguments, *constants).

    Triton's own way to the compiled kernel takes longer than many of these kernels run; here it is gone once for all
    arguments that Triton itself would not tell apart.
    """
    key = id(kernel), warps, stages, constants, tuple([_KINDS[type(x)](x) for x in arguments])
    compiled = _compiled.get(key)
    if compiled is None:
        compiled = kernel[grid](*arguments, *constants, num_warps=warps, num_stages=stages)
        if compiled is not None:  # Triton's interpreter gives none
            _compiled[key] = compiled
    else:
        compiled[(*grid, 1, 1)[:3]](*arguments, *constants)


def _tensor_kind(x: Tensor) -> Any:
    return x.dtype, x.get_device(), x.data_ptr() % 16


class _Kinds(dict[type, Any]):
    """What Triton tells apart, by type."""

    def __missing__(self, kind: type) -> Any:
        self[kind] = _tensor_kind if issubclass(kind, Tensor) else lambda x: (kind, x)
        return self[kind]


_KINDS = _Kinds(
    {
        Tensor: _tensor_kind,
        int: lambda x: 1 if x == 1 else (x % 16 == 0, x < 2**31),
        float: lambda _: float,
        type(None): lambda _: None,
    }
)


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two(x: int) -> int:
    """The next one from x on."""
    return 1 << (x - 1).bit_length()


def channel_tile(channels: int, largest: int = 128) -> int:
    """Channels of one tile: a power of two that divides them where it is wide enough to be read in one go."""
    even = channels & -channels
    return min(even, largest) if even >= 32 else min(power_of_two(channels), largest)


def row_tile(channels: int, elements: int = 2048) -> tuple[int, int]:
    """Rows and (padded) channels of a tile that holds whole rows."""
    width = power_of_two(channels)
    return max(1, elements // width), width


def new_partials(count: int, sums: int, channels: int, like: Tensor) -> Tensor:
    """Where each of `count` programs writes its own sums."""
    return torch.empty((count, sums, channels), dtype=torch.float32, device=like.device)


def add_partials(partials: Tensor, sums: Tensor) -> None:
    """sums += partials.sum(dim=0)"""
    count, columns = len(partials), partials[0].numel()
    launch(_add_partials, (cdiv(columns, 32),), (partials, sums, count, columns), (64, 32))


@triton.jit(do_not_specialize=["count", "columns"])
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
def exp2(x):
    if BARE:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    return tl.exp2(x)


@triton.jit
def _inverse(x):
    if BARE:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    return 1.0 / x


@triton.jit
def _upper_tail(x):
    """The normal distribution's share above |x|, and exp(-x**2 / 2). Abramowitz and Stegun 7.1.26, to 1e-7."""
    t = _inverse(1.0 + 0.23164190 * tl.abs(x))
    density = exp2(x * x * -0.72134752)
    tail = t * (0.127414796 + t * (-0.142248368 + t * (0.710706870 + t * (-0.726576013 + t * 0.530702715))))
    return tail * density, density


@triton.jit
def gelu(x):
    """Infinity gives no number, as it does in most steps before and after."""
    tail, _ = _upper_tail(x)
    return tl.maximum(x, 0.0) - tl.abs(x) * tail


@triton.jit
def gelu_parts(x):
    """GELU and its slope."""
    tail, density = _upper_tail(x)
    below = tl.where(x < 0, tail, 1.0 - tail)
    return x * below, below + x * (0.3989422804014327 * density)


@triton.jit
def halves(x):
    """Float32 numbers rounded to the eleven bits that tf32 holds, and what is left."""
    leading = ((x.to(tl.int32, bitcast=True) + 4096) & -8192).to(tl.float32, bitcast=True)
    return leading, x - leading


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
