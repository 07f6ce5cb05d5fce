"""Mean of every window of a (B, H, W, C) map, and its gradient. As `source/pooling.cpp`."""

import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.tiles import cdiv, channel_tile, launch, long, read, window_cells, write
from densevit.kernels.gpu.windows import Axes, axes


def pool_windows(
    x: Tensor, out: Tensor, B: int, H: int, W: int, C: int, y: tuple[int, ...], x_run: tuple[int, ...], place: int,
    down: int, across: int,
) -> None:  # fmt: skip
    group = axes(y, x_run)
    width = channel_tile(C)
    arguments = (x, out, H * W, W, C, *group, place, down * across, across)
    launch(_pool, _grid(B, C, group), arguments, (64, width))


def pool_windows_backward(
    grad: Tensor, addend: Tensor, grad_x: Tensor, B: int, H: int, W: int, C: int, y: tuple[int, ...],
    x_run: tuple[int, ...], place: int, down: int, across: int,
) -> None:  # fmt: skip
    group = axes(y, x_run)
    arguments = (grad, addend, grad_x, H * W, W, C, *group, place, down * across, across)
    launch(_pool_backward, _grid(B, C, group), arguments, (16, channel_tile(C)))


def _grid(B: int, C: int, group: Axes) -> tuple[int, int]:
    return B * group.per_image, cdiv(C, channel_tile(C))


@triton.jit(do_not_specialize=[*Axes._fields, "area", "W", "place", "windows", "across"])
def _pool(
    x, out, area, W, C, top, down_span, down_step, down_width, left, across_span, across_step, across_width, columns,
    per_image, per_row, tokens, place, windows, across, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    image, n = long(tl.program_id(0) // per_image), tl.program_id(0) % per_image
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((TOKENS, CHANNELS), dtype=tl.float32)
    for first in range(0, tokens, TOKENS):
        t = first + tl.arange(0, TOKENS)
        cells = window_cells(
            n, t, W, top, down_span, down_step, down_width, left, across_span, across_step, across_width, columns,
            per_row,
        )  # fmt: skip
        mask = (t < tokens)[:, None] & (c < C)[None, :]
        total += read(x + (image * area + cells)[:, None] * C + c[None, :], mask)
    to = (image * windows + place + n // columns * across + n % columns) * C + c
    write(out + to, tl.sum(total, axis=0) / tokens, c < C)


@triton.jit(do_not_specialize=[*Axes._fields, "area", "W", "place", "windows", "across"])
def _pool_backward(
    grad, addend, grad_x, area, W, C, top, down_span, down_step, down_width, left, across_span, across_step,
    across_width, columns, per_image, per_row, tokens, place, windows, across,
    TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    image, n = long(tl.program_id(0) // per_image), tl.program_id(0) % per_image
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    share = read(grad + (image * windows + place + n // columns * across + n % columns) * C + c, c < C) / tokens
    for first in range(0, tokens, TOKENS):
        t = first + tl.arange(0, TOKENS)
        cells = window_cells(
            n, t, W, top, down_span, down_step, down_width, left, across_span, across_step, across_width, columns,
            per_row,
        )  # fmt: skip
        mask = (t < tokens)[:, None] & (c < C)[None, :]
        at = (image * area + cells)[:, None] * C + c[None, :]
        write(grad_x + at, read(addend + at, mask) + share[None, :], mask)
