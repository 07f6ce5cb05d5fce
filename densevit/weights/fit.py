"""Bringing tensors of the right names to the shapes of a model: positions, bias tables, the patch convolution.

Shapes: P prefix rows (class, distillation, registers), h w the source's grid, H W the encoder's, A attention heads.
"""

from math import isqrt

import torch
from timm.layers import resample_patch_embed
from timm.models import adapt_input_conv
from torch import Tensor

from densevit.errors import UserError
from densevit.models.beit import resize_bias_table
from densevit.models.position import PositionResize, resize_position_embedding
from densevit.models.pyramid import PyramidEncoder
from densevit.models.vit import ViTEncoder, num_positioned_prefix
from densevit.weights.pyramid import first_convs

Grid = tuple[int, int]
PREFIX_TOKENS = ("vit.cls_token", "vit.dist_token", "vit.reg_token")


def fit_encoder(
    encoder: ViTEncoder,
    tensors: dict[str, Tensor],
    *,
    mode: PositionResize,
    grid: Grid | None = None,
    own_grid_first: bool = False,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Resize what may be resized; returns the tensors, and by name what was done ("(1, 10, 8) -> (1, 17, 8)").

    `tensors` have the encoder's names. `grid` is the source's patch grid where it is known; else it is taken to be
    square, or the encoder's own (first of the two with `own_grid_first`). UserError where neither fits.
    """
    own = encoder.state_dict()
    fitted = dict(tensors)
    if "vit.pos_embed" in tensors and "vit.pos_embed" in own:
        fitted["vit.pos_embed"] = _fit_position(encoder, tensors, mode, grid, own_grid_first)
    for name, tensor in tensors.items():
        if name.startswith("relative_bias.tables.") and name in own:
            fitted[name] = _fit_table(encoder, tensor, grid, own_grid_first)
    kernel = tensors.get("vit.patch_embed.proj.weight")
    if kernel is not None:
        fitted["vit.patch_embed.proj.weight"] = _fit_patches(kernel, own["vit.patch_embed.proj.weight"])
    changed = [name for name in tensors if fitted[name] is not tensors[name]]
    resized = {name: f"{tuple(tensors[name].shape)} -> {tuple(fitted[name].shape)}" for name in changed}
    return fitted, resized


def fit_pyramid(encoder: PyramidEncoder, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Adapt the first convolution to the encoder's bands; returns as `fit_encoder` does."""
    own, fitted, resized = encoder.state_dict(), dict(tensors), {}
    for name in first_convs(encoder):
        kernel = tensors.get(name)
        if kernel is not None and kernel.shape[1] != own[name].shape[1]:
            fitted[name] = _fit_bands(kernel, own[name].shape[1])
            resized[name] = f"{tuple(kernel.shape)} -> {tuple(fitted[name].shape)}"
    return fitted, resized


def _fit_position(
    encoder: ViTEncoder, tensors: dict[str, Tensor], mode: PositionResize, grid: Grid | None, own_grid_first: bool
) -> Tensor:
    """The source's grid resized to the encoder's, behind as many of its prefix rows as the encoder has.

    A distilled model in an encoder without distillation token gives its class row alone (the official code does so).
    """
    position, vit = tensors["vit.pos_embed"], encoder.vit
    if position.shape[2] != encoder.embed_dim:
        return position  # another architecture, which the caller finds out
    num_tokens = sum(tensors[name].shape[1] for name in PREFIX_TOKENS if name in tensors)
    num_own, own_grid = num_positioned_prefix(vit), (vit.patch_embed.grid_size[0], vit.patch_embed.grid_size[1])
    num_rows = position.shape[1]
    if grid is not None:
        num_prefix, old_grid = num_rows - grid[0] * grid[1], grid
    else:
        num_prefix = num_tokens if num_own else 0
        old_grid = _guess_grid(num_rows, num_prefix, own_grid, own_grid_first)
    if (num_prefix, old_grid) == (num_own, own_grid):
        return position
    patches = resize_position_embedding(
        position, old_grid=old_grid, new_grid=own_grid, num_prefix=num_prefix, mode=mode
    )[:, num_prefix:]
    rows = vit.pos_embed.detach()[:, :num_own].to(position).clone()
    num_shared = min(num_own, num_prefix)
    rows[:, :num_shared] = position[:, :num_shared]
    return torch.cat([rows, patches], dim=1)


def _guess_grid(num_rows: int, num_prefix: int, own_grid: Grid, own_grid_first: bool) -> Grid:
    """The (h, w) of a position embedding that does not say: the encoder's own or a square."""
    num_patches = num_rows - num_prefix
    is_own, side = num_patches == own_grid[0] * own_grid[1], isqrt(max(num_patches, 0))
    is_square = side * side == num_patches and side > 0
    if is_own and (own_grid_first or not is_square):
        return own_grid
    if is_square:
        return side, side
    raise UserError(
        f"a position embedding of {num_prefix} + {num_patches} rows is neither a square grid nor the encoder's "
        f"{own_grid[0]}x{own_grid[1]}; build the model with the image_size it was trained at"
    )


def _fit_table(encoder: ViTEncoder, table: Tensor, grid: Grid | None, own_grid_first: bool) -> Tensor:
    assert encoder.relative_bias is not None
    window = encoder.relative_bias.window
    num_own = (2 * window[0] - 1) * (2 * window[1] - 1)
    num_offsets = table.shape[0] - 3
    side = isqrt(max(num_offsets, 0))
    if grid is None and num_offsets == num_own and (own_grid_first or side * side != num_offsets):
        return table
    if grid is None and side * side != num_offsets:
        raise UserError(
            f"a relative position table of {table.shape[0]} rows is neither for a square grid nor for the encoder's "
            f"{window[0]}x{window[1]}; build the model with the image_size it was trained at"
        )
    return resize_bias_table(table, old_grid=grid or ((side + 1) // 2, (side + 1) // 2), new_grid=window)


def _fit_patches(kernel: Tensor, own: Tensor) -> Tensor:
    """The patch convolution (C, bands, p, p) for other bands (as timm: repeated and rescaled) or another patch."""
    if kernel.shape[1] != own.shape[1]:
        kernel = _fit_bands(kernel, own.shape[1])
    if kernel.shape[-2:] != own.shape[-2:]:
        kernel = resample_patch_embed(kernel, list(own.shape[-2:]))
    return kernel


def _fit_bands(kernel: Tensor, num_bands: int) -> Tensor:
    """A convolution (C, 3, h, w) for `num_bands`, repeated and rescaled as timm does."""
    if kernel.shape[1] != 3:
        raise UserError(f"weights for {kernel.shape[1]} bands cannot be adapted to {num_bands} (only 3 can)")
    adapted: Tensor = adapt_input_conv(num_bands, kernel)
    return adapted
