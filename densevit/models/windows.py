"""Plain and dilated windows of a feature map: cut, merge, pool. Shapes: B batch, H W map, C channels, R window size.

A window holds up to R x R tokens that lie D cells apart on each axis. D = 1 is the plain window (R adjacent rows and
columns); D = side / R spans the whole map (HLG, Sec. 3.3 and Figure 4). One rule covers both: an axis is cut into
blocks of R * D cells, and cell `b * R * D + t * D + i` is token t of window (b, i).

A side that R * D does not divide leaves shorter windows at its end. They are kept short instead of being filled up:
an axis falls into at most three runs of windows of equal length, and each pair of runs is one rectangular group. The
few cells that padding adds to make the last rows of a block complete are in no group, so nothing ever reads them.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Run(NamedTuple):
    """Windows of equal length that follow each other on one axis; the unit is the cell."""

    start: int  # first cell of the first block
    blocks: int  # number of blocks
    rows: int  # rows of D cells in a block of the padded map
    dilation: int  # D
    tokens: int  # tokens per window, at most `rows`
    offset: int  # first of the block's D windows that belongs to this run
    width: int  # how many of the block's D windows belong to this run

    @property
    def windows(self) -> int:
        return self.blocks * self.width

    def centers_doubled(self) -> list[int]:
        """Twice the mean coordinate of each window's tokens (doubled, so that it stays an integer)."""
        first = [
            self.start + block * self.rows * self.dilation + self.offset + i
            for block in range(self.blocks)
            for i in range(self.width)
        ]
        return [2 * cell + self.dilation * (self.tokens - 1) for cell in first]


def axis_runs(side: int, *, window_size: int, dilation: int) -> list[Run]:
    """Cut an axis of `side` cells into runs of windows; every cell is in exactly one window, no window is empty."""
    span = window_size * dilation
    blocks, rest = divmod(side, span)
    runs = [Run(0, blocks, window_size, dilation, window_size, 0, dilation)] if blocks else []
    full_rows, extra = divmod(rest, dilation)
    rows = full_rows + (extra > 0)
    if extra:  # the first `extra` windows of the last block have one token more
        runs.append(Run(blocks * span, 1, rows, dilation, rows, 0, extra))
    if full_rows:
        runs.append(Run(blocks * span, 1, rows, dilation, full_rows, extra, dilation - extra))
    return runs


def spanning_dilation(side: int, *, window_size: int) -> int:
    """Rate D at which a window of R tokens spans an axis of `side` cells: side / R, rounded up (Table 1 at 224)."""
    return -(-side // window_size)


@dataclass(frozen=True)
class WindowGrid:
    """How a map of `size` (H, W) is cut into windows; built by `window_grid`."""

    size: tuple[int, int]
    window_size: int
    runs_y: tuple[Run, ...]
    runs_x: tuple[Run, ...]

    @property
    def padding(self) -> tuple[int, int]:
        """Cells added below and to the right so that whole rows of D cells can be viewed; no window holds them."""
        last = (self.runs_y[-1], self.runs_x[-1])
        ends = [run.start + run.blocks * run.rows * run.dilation for run in last]
        return ends[0] - self.size[0], ends[1] - self.size[1]

    @property
    def num_windows(self) -> tuple[int, int]:
        """Windows per axis; canonical window order is row-major over them."""
        return sum(run.windows for run in self.runs_y), sum(run.windows for run in self.runs_x)

    @property
    def centers_doubled(self) -> tuple[list[int], list[int]]:
        """Twice the windows' mean coordinates per axis, in canonical order."""
        y, x = ([c for run in runs for c in run.centers_doubled()] for runs in (self.runs_y, self.runs_x))
        return y, x

    @property
    def groups(self) -> list[tuple[Run, Run]]:
        """Pairs of runs (y, x), row-major: the rectangles in which all windows have the same tokens."""
        return [(run_y, run_x) for run_y in self.runs_y for run_x in self.runs_x]


def window_grid(size: tuple[int, int], *, window_size: int, dilation: int | str = 1) -> WindowGrid:
    """Cut a map of `size` (H, W) into windows of at most R x R tokens `dilation` cells apart.

    `dilation` 1 is plain, "span" lets every window span the map (D = side / R on each axis), any other positive
    integer is taken as it is.
    """
    size = operator.index(size[0]), operator.index(size[1])  # a trace holds them as tensors, a compiler keeps them open
    rates = [spanning_dilation(side, window_size=window_size) if dilation == "span" else int(dilation) for side in size]
    runs = [
        tuple(axis_runs(side, window_size=window_size, dilation=rate)) for side, rate in zip(size, rates, strict=True)
    ]
    return WindowGrid(size, window_size, runs[0], runs[1])


def pad_map(x: Tensor, grid: WindowGrid, *, value: float = 0.0) -> Tensor:
    """(B, H, W, C) -> (B, H + pad, W + pad, C) with `value` in the added cells; no copy where nothing is added."""
    bottom, right = grid.padding
    return F.pad(x, (0, 0, 0, right, 0, bottom), value=value) if bottom or right else x


def _group_view(x: Tensor, run_y: Run, run_x: Run) -> Tensor:
    """Padded map (B, Hp, Wp, C) -> view (B, blocks, tokens, width, blocks, tokens, width, C) of one group."""
    B, _, _, C = x.shape
    span_y, span_x = (run.blocks * run.rows * run.dilation for run in (run_y, run_x))
    x = x.narrow(1, run_y.start, span_y).narrow(2, run_x.start, span_x)
    x = x.view(B, run_y.blocks, run_y.rows, run_y.dilation, run_x.blocks, run_x.rows, run_x.dilation, C)
    x = x.narrow(2, 0, run_y.tokens).narrow(3, run_y.offset, run_y.width)
    return x.narrow(5, 0, run_x.tokens).narrow(6, run_x.offset, run_x.width)


def partition(x: Tensor, grid: WindowGrid) -> list[Tensor]:
    """Cut a padded map into windows: (B, Hp, Wp, C) -> one (B, windows, tokens, C) per group of the grid.

    Windows are row-major inside their group, tokens row-major inside their window. A copy.
    """
    B, _, _, C = x.shape
    parts = []
    for run_y, run_x in grid.groups:
        view = _group_view(x, run_y, run_x).permute(0, 1, 3, 4, 6, 2, 5, 7)
        parts.append(view.reshape(B, run_y.windows * run_x.windows, run_y.tokens * run_x.tokens, C))
    return parts


def _join(parts: list[Tensor], runs: tuple[Run, ...], *, dim: int) -> Tensor:
    """Lay the runs of one axis side by side; each part has (blocks, tokens, width) at `dim`, merged into cells."""
    pieces, last = [], runs[-1]
    for run, part in zip(runs, parts, strict=True):
        if run.tokens < run.rows:  # a short window: its missing cell is padding
            pad = [0, 0] * (part.dim() - dim - 2) + [0, run.rows - run.tokens]
            part = F.pad(part, pad)
        pieces.append(part)
    if len(runs) > 1 and runs[-2].start == last.start:  # two runs share the last block
        pieces[-2:] = [torch.cat(pieces[-2:], dim=dim + 2)]
    pieces = [piece.flatten(dim, dim + 2) for piece in pieces]
    return _cat(pieces, dim=dim)


def merge(parts: list[Tensor], grid: WindowGrid) -> Tensor:
    """Undo `partition` and drop the padding: (B, windows, tokens, C) per group -> (B, H, W, C)."""
    rows, columns = [], len(grid.runs_x)
    for index, run_y in enumerate(grid.runs_y):
        pieces = []
        for run_x, part in zip(grid.runs_x, parts[index * columns : (index + 1) * columns], strict=True):
            B, _, _, C = part.shape
            sizes = (run_y.blocks, run_y.width, run_x.blocks, run_x.width, run_y.tokens, run_x.tokens)
            pieces.append(part.reshape(B, *sizes, C).permute(0, 1, 5, 2, 3, 6, 4, 7))
        rows.append(_join(pieces, grid.runs_x, dim=4))
    H, W = grid.size
    return _join(rows, grid.runs_y, dim=1)[:, :H, :W]


def pool_windows(x: Tensor, grid: WindowGrid, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """One vector per window, in canonical order: padded map (B, Hp, Wp, C) -> (B, windows, C).

    `pool` is called once per group; it reduces dims 2 and 5 (the token rows and columns of a window, real ones only) of
    (B, blocks, rows, width, blocks, columns, width, C).
    """
    B, columns = x.shape[0], len(grid.runs_x)
    pooled = [
        pool(_group_view(x, run_y, run_x)).reshape(B, run_y.windows, run_x.windows, -1) for run_y, run_x in grid.groups
    ]
    rows = [_cat(pooled[i * columns : (i + 1) * columns], dim=2) for i in range(len(grid.runs_y))]
    return _cat(rows, dim=1).flatten(1, 2)


def _cat(parts: list[Tensor], *, dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
