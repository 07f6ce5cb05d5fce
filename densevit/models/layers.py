"""Small blocks the decoders share: the choice of norm, conv-norm-ReLU, bilinear resizing.

Shapes: B batch, C channels, H W height and width of a feature map.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densevit.errors import unknown_name

NormName = Literal["batch", "sync", "group"]


def make_norm(norm: NormName, channels: int) -> nn.Module:
    """Normalisation of a (B, channels, H, W) map.

    "batch" works on one device, and the trainer turns it into synchronised batch norm on several (the paper's
    setting); "sync" is `nn.SyncBatchNorm` outright, which also runs on one CPU; "group" is GroupNorm with groups of
    at least 8 channels, for batches too small for statistics.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "sync":
        return nn.SyncBatchNorm(channels)
    if norm == "group":
        num_groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and (g == 1 or channels // g >= 8))
        return nn.GroupNorm(num_groups, channels)
    raise unknown_name("norm", norm, ("batch", "sync", "group"))


def conv_norm_relu(in_channels: int, out_channels: int, *, kernel_size: int, norm: NormName = "batch") -> nn.Sequential:
    """Same-size convolution without bias, norm, ReLU: (B, in_channels, H, W) -> (B, out_channels, H, W)."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, make_norm(norm, out_channels), nn.ReLU(inplace=True))


def known_equal(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether two sizes are equal; False for an export's symbolic sizes, which a comparison would fix to one value."""
    return not any(isinstance(side, torch.SymInt) for side in (*a, *b)) and tuple(a) == tuple(b)


def resize(maps: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Bilinear resize to (H, W); returns the input itself where it already has that size."""
    if known_equal(maps.shape[-2:], size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


def scale_up(maps: Tensor, factor: int, *, align_corners: bool = False) -> Tensor:
    """Bilinear upsampling by a whole `factor`: (B, C, H, W) -> (B, C, factor * H, factor * W)."""
    H, W = maps.shape[-2:]
    return resize(maps, (H * factor, W * factor), align_corners=align_corners)
