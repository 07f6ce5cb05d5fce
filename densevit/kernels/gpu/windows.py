"""Where the cells of a window lie: a group of equal windows is a `densevit.models.windows.Run` along each axis."""

from typing import NamedTuple


class Axes(NamedTuple):
    """A group of windows as the kernels take it, rows first."""

    top: int
    down_span: int
    """Rows from one block of windows to the next."""
    down_step: int
    """Rows from one token to the next."""
    down_width: int
    """Windows of a block that belong to the group."""
    left: int
    across_span: int
    across_step: int
    across_width: int
    columns: int
    """Windows beside each other."""
    per_image: int
    per_row: int
    """Tokens beside each other."""
    tokens: int


def axes(y: tuple[int, ...], x: tuple[int, ...]) -> Axes:
    start_y, blocks_y, rows_y, step_y, tokens_y, offset_y, width_y = y
    start_x, blocks_x, rows_x, step_x, tokens_x, offset_x, width_x = x
    down = (start_y + offset_y, rows_y * step_y, step_y, width_y)
    across = (start_x + offset_x, rows_x * step_x, step_x, width_x)
    columns = blocks_x * width_x
    return Axes(*down, *across, columns, blocks_y * width_y * columns, tokens_x, tokens_y * tokens_x)
