"""Windows: every cell in exactly one, at the right distance, and padding in none."""

import pytest
import torch

from densevit.models.windows import axis_runs, merge, pad_map, partition, pool_windows, window_grid

GRIDS = [
    ((14, 14), 7, 1), ((14, 21), 7, "span"), ((9, 16), 7, 1), ((9, 16), 7, "span"), ((3, 5), 7, "span"),
    ((1, 1), 7, "span"), ((14, 14), 7, 8), ((17, 31), 3, 5), ((60, 57), 7, 8), ((13, 29), 4, 2), ((5, 40), 7, 1),
]  # fmt: skip


def coordinate_map(size, batch=1):
    """(B, H, W, 2): every cell holds its own coordinates."""
    cells = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij"), dim=-1).double()
    return cells[None].repeat(batch, 1, 1, 1)


def owner(cell, side, window_size, dilation):
    """The window of a cell on one axis, straight from the definition."""
    rate = -(-side // window_size) if dilation == "span" else dilation
    return cell // (rate * window_size), cell % rate


@pytest.mark.parametrize(("size", "window_size", "dilation"), GRIDS)
def test_merge_undoes_partition(size, window_size, dilation):
    x = torch.randn(2, *size, 5)
    grid = window_grid(size, window_size=window_size, dilation=dilation)
    assert torch.equal(merge(partition(pad_map(x, grid, value=float("nan")), grid), grid), x)


@pytest.mark.parametrize(("size", "window_size", "dilation"), GRIDS)
def test_windows_are_those_of_the_definition(size, window_size, dilation):
    grid = window_grid(size, window_size=window_size, dilation=dilation)
    parts = partition(pad_map(coordinate_map(size), grid, value=-1), grid)
    seen = []
    for part in parts:
        assert part.shape[2] <= window_size**2
        for window in part[0].long().tolist():
            owners = {tuple(owner(cell[axis], size[axis], window_size, dilation) for axis in (0, 1)) for cell in window}
            assert len(owners) == 1
            seen += [tuple(cell) for cell in window]
            assert window == sorted(window)
    assert sorted(seen) == [(y, x) for y in range(size[0]) for x in range(size[1])]


@pytest.mark.parametrize(("size", "window_size", "dilation"), GRIDS)
def test_centers_are_the_mean_of_the_tokens_and_pooling_uses_the_same_order(size, window_size, dilation):
    grid = window_grid(size, window_size=window_size, dilation=dilation)
    padded = pad_map(coordinate_map(size), grid, value=1e9)
    means = pool_windows(padded, grid, lambda windows: windows.mean(dim=(2, 5)))[0]
    ys, xs = ([c / 2 for c in axis] for axis in grid.centers_doubled)
    assert (len(ys), len(xs)) == grid.num_windows
    expected = torch.tensor([[y, x] for y in ys for x in xs], dtype=torch.float64)
    torch.testing.assert_close(means, expected, rtol=0, atol=1e-12)


def test_table_1_rates_at_224_need_no_padding():
    for side, rate in ((56, 8), (28, 4), (14, 2), (7, 1)):
        grid = window_grid((side, side), window_size=7, dilation="span")
        assert [(run.dilation, run.tokens) for run in grid.runs_y] == [(rate, 7)]
        assert grid.padding == (0, 0)
        assert len(grid.groups) == 1


def test_hand_worked_axis():
    # 9 cells, R = 4, D = 3: one block of 12 does not fit; windows {0,3,6}, {1,4,7}, {2,5,8}.
    (run,) = axis_runs(9, window_size=4, dilation=3)
    assert (run.tokens, run.width, run.centers_doubled()) == (3, 3, [6, 8, 10])
    # 8 cells: the third window has only {2, 5}.
    long, short = axis_runs(8, window_size=4, dilation=3)
    assert (long.tokens, long.width, long.centers_doubled()) == (3, 2, [6, 8])
    assert (short.tokens, short.width, short.centers_doubled()) == (2, 1, [7])


def test_padding_is_no_copy_where_nothing_is_added():
    x = torch.randn(1, 14, 28, 3)
    assert pad_map(x, window_grid((14, 28), window_size=7, dilation="span")) is x
