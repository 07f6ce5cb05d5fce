"""2D resizing of learned absolute position embeddings (SETR, Sec. 3.2: positions follow the input's patch grid).

Shapes: P prefix tokens (class, distillation, registers), N = H * W patch tokens, C channels.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from densevit.errors import UserError, unknown_name
from densevit.models.layers import known_equal

PositionResize = Literal["bilinear", "bicubic"]


def resize_position_embedding(
    position: Tensor,
    *,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    num_prefix: int = 0,
    mode: PositionResize = "bilinear",
) -> Tensor:
    """Resize the grid part of a position embedding: (1, P + h * w, C) -> (1, P + H * W, C).

    The first `num_prefix` rows are kept as they are. "bilinear" is what the paper's code does (align_corners False);
    "bicubic" with antialiasing is timm's own resampling. Interpolation runs in float32.
    """
    if position.shape[1] != num_prefix + old_grid[0] * old_grid[1]:
        raise UserError(
            f"a position embedding of {position.shape[1]} rows does not hold {num_prefix} prefix tokens "
            f"and a {old_grid[0]}x{old_grid[1]} grid"
        )
    if mode not in ("bilinear", "bicubic"):
        raise unknown_name("position resize mode", mode, ("bilinear", "bicubic"))
    if known_equal(old_grid, new_grid):
        return position
    prefix, grid = position[:, :num_prefix], position[:, num_prefix:]
    maps = grid.float().reshape(1, *old_grid, -1).permute(0, 3, 1, 2)  # (1, C, h, w)
    maps = F.interpolate(maps, size=new_grid, mode=mode, align_corners=False, antialias=mode == "bicubic")
    grid = maps.flatten(2).transpose(1, 2).to(position.dtype)  # (1, H * W, C)
    return torch.cat([prefix, grid], dim=1)
