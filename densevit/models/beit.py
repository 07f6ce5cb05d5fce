"""Relative position bias of a BEiT encoder at any grid, as tables that are expanded once per grid.

timm fixes each block's bias to the training grid and rebuilds it on every call. Here the tables of all blocks are held
together, resized to the grid at hand, and the expanded bias is kept in eval mode.
Shapes: N = H * W + 1 tokens (class token first), A attention heads.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models.beit import Beit, gen_relative_position_index
from torch import Tensor, nn


class RelativeBiasTables(nn.Module):
    """Takes the relative position tables out of a timm BEiT and gives every block's bias for any grid.

    Afterwards the blocks hold no table of their own and expect the bias as `shared_rel_pos_bias`.
    """

    def __init__(self, vit: Beit):
        super().__init__()
        self.window: tuple[int, int] = tuple(vit.patch_embed.grid_size)
        self.tables = nn.ParameterList()
        for block in vit.blocks:
            self.tables.append(block.attn.relative_position_bias_table)
            block.attn.relative_position_bias_table = None
            block.attn.relative_position_index = None
        self._kept: tuple[tuple[object, ...], list[Tensor]] | None = None

    def forward(self, grid: tuple[int, int]) -> Sequence[Tensor]:
        """One (1, A, N, N) bias per block for a (H, W) `grid`; differentiable in training, kept between eval calls."""
        table = self.tables[0]
        key = (grid, table.device, table.dtype, *(t._version for t in self.tables))
        if self._kept is not None and self._kept[0] == key and not self.training and not torch.is_grad_enabled():
            return self._kept[1]
        index = gen_relative_position_index(grid, device=table.device)
        biases = [self._expand(table, grid, index) for table in self.tables]
        if not self.training and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._kept = (key, biases)
        return biases

    def _expand(self, table: Tensor, grid: tuple[int, int], index: Tensor) -> Tensor:
        if grid != self.window:
            table = resize_bias_table(table, old_grid=self.window, new_grid=grid)
        N = index.shape[0]
        return table[index.flatten()].view(N, N, -1).permute(2, 0, 1).unsqueeze(0).contiguous()


def resize_bias_table(table: Tensor, *, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Bicubic resize of a table of 2D offsets: ((2h-1) * (2w-1) + 3, A) -> ((2H-1) * (2W-1) + 3, A).

    The last three rows (class to patch, patch to class, class to class) are kept. Differentiable.
    """
    (h, w), (H, W) = old_grid, new_grid
    offsets, extra = table[:-3], table[-3:]
    maps = offsets.float().t().reshape(1, -1, 2 * h - 1, 2 * w - 1)
    maps = F.interpolate(maps, size=(2 * H - 1, 2 * W - 1), mode="bicubic", align_corners=False)
    return torch.cat([maps[0].flatten(1).t().to(table.dtype), extra])
