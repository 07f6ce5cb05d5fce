"""Relative position bias of a BEiT encoder at any grid, expanded once per grid.

timm fixes each block's bias to the training grid and rebuilds it on every call. Here the tables of all blocks are held
together, resized to the grid at hand, and the expanded bias is kept in eval mode.
Shapes: N = H * W + 1 tokens (class token first), A attention heads, R = (2H - 1) * (2W - 1) + 3 rows of a table.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from torch import Tensor, nn

from densevit.models.derived_tensors import version
from densevit.models.layers import known_equal

MAX_KEPT_BYTES = 2 << 30
"""Expanded biases are kept up to this size, all blocks together (BEiT-L at 512 x 512 in float32: 1.6 GiB)."""


class RelativeBiasTables(nn.Module):
    """Takes the relative position tables out of a timm BEiT and gives any block's bias for any grid.

    Afterwards the blocks hold no table of their own and expect the bias as `shared_rel_pos_bias`. One block at a time,
    so that a long-lived copy of every block's (A, N, N) bias exists only where it is kept on purpose.
    """

    def __init__(self, vit: Any):
        super().__init__()
        self.window: tuple[int, int] = tuple(vit.patch_embed.grid_size)
        self.tables = nn.ParameterList()
        for attention in attentions_with_table(vit):
            self.tables.append(attention.relative_position_bias_table)
            attention.relative_position_bias_table = None
            attention.relative_position_index = None
        self._kept: dict[int, tuple[tuple[object, ...], Tensor]] = {}
        self._kept_index: tuple[tuple[object, ...], Tensor] | None = None

    def forward(self, block: int, grid: tuple[int, int]) -> Tensor:
        """Bias (1, A, N, N) of `block` (from 0) for a (H, W) `grid`.

        Differentiable where gradients are on. In eval mode without gradients it is kept until the table or the grid
        changes (not by writes through `Parameter.data`, which PyTorch does not count: call `forget` after those).
        """
        table = self.tables[block]
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or self.training or not self._worth_keeping(grid):
            return self._expand(table, grid)
        key = (grid, table.device, table.dtype, version(table))
        if block not in self._kept or self._kept[block][0] != key:
            self._kept[block] = (key, self._expand(table, grid))
        return self._kept[block][1]

    def forget(self) -> None:
        """Drop what is kept, to free its memory."""
        self._kept.clear()
        self._kept_index = None

    def train(self, mode: bool = True) -> "RelativeBiasTables":
        if mode:
            self.forget()
        return super().train(mode)

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_kept": {}, "_kept_index": None}  # copies and pickles stay small

    def _worth_keeping(self, grid: tuple[int, int]) -> bool:
        table = self.tables[0]
        num_values = len(self.tables) * table.shape[1] * (grid[0] * grid[1] + 1) ** 2
        return num_values * table.element_size() <= MAX_KEPT_BYTES and not table.is_inference()

    def _expand(self, table: Tensor, grid: tuple[int, int]) -> Tensor:
        table = resize_bias_table(table, old_grid=self.window, new_grid=grid)
        index = self._index(grid, table.device)
        N = grid[0] * grid[1] + 1
        return table.t().contiguous().index_select(1, index).view(1, -1, N, N)

    def _index(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        if torch.compiler.is_compiling():
            return relative_position_index(grid, device=device)
        if self._kept_index is None or self._kept_index[0] != (grid, device):
            with torch.inference_mode(False):  # usable in training later, wherever it was first built
                self._kept_index = ((grid, device), relative_position_index(grid, device=device))
        return self._kept_index[1]


def attentions_with_table(vit: Any) -> list[Any]:
    """The attention modules of a timm model that hold a relative position table: a BEiT's, or none."""
    attentions: list[Any] = [block.attn for block in vit.blocks] if isinstance(vit, Beit) else []
    return [attention for attention in attentions if attention.relative_position_bias_table is not None]


def relative_position_index(grid: tuple[int, int], *, device: torch.device | None = None) -> Tensor:
    """Row of a bias table for each (query, key) pair of a (H, W) `grid`, class token first: (N * N,).

    Row (y_q - y_k + H - 1) * (2W - 1) + (x_q - x_k + W - 1) for two patches; the last three rows are for class to
    patch, patch to class, class to class (BEiT, Bao et al. 2022).
    """
    H, W = grid
    ys, xs = torch.arange(H, device=device), torch.arange(W, device=device)
    dy = ys[:, None] - ys + H - 1  # (H, H)
    dx = xs[:, None] - xs + W - 1  # (W, W)
    patches = dy[:, None, :, None] * (2 * W - 1) + dx[None, :, None, :]  # (H, W, H, W)
    num_offsets = (2 * ys[-1] + 1) * (2 * xs[-1] + 1)  # a tensor: as a number it would fix an export to one size
    index = F.pad(patches.reshape(H * W, H * W), (1, 0, 1, 0))
    index[0] = num_offsets  # class to patch
    index[1:, 0] = num_offsets + 1
    index[0, 0] = num_offsets + 2
    return index.flatten()


def resize_bias_table(table: Tensor, *, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Bicubic resize of a table of 2D offsets: ((2h-1) * (2w-1) + 3, A) -> ((2H-1) * (2W-1) + 3, A).

    The last three rows (class to patch, patch to class, class to class) are kept. Differentiable.
    """
    (h, w), (H, W) = old_grid, new_grid
    if known_equal(old_grid, new_grid):
        return table
    offsets, extra = table[:-3], table[-3:]
    maps = offsets.float().t().reshape(1, -1, 2 * h - 1, 2 * w - 1)
    maps = F.interpolate(maps, size=(2 * H - 1, 2 * W - 1), mode="bicubic", align_corners=False)
    return torch.cat([maps[0].flatten(1).t().to(table.dtype), extra])
