"""Bilinear resizing and the test sizes of the paper's protocol. Shapes: B batch, K classes, H height, W width.

Sizes are (H, W) in pixels. Images and logits are resized alike: bilinear, corners not aligned, no
antialiasing, as the authors' code does; `shrink_smoothly` is the exception.
"""

import torch.nn.functional as F
from torch import Tensor

from densevit.errors import UserError

Size = tuple[int, int]


def resize_bilinear(maps: Tensor, *, size: Size) -> Tensor:
    """Resize images or logits: (B, C, h, w) -> (B, C, H, W); `maps` itself where it already has that size."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def shrink_smoothly(images: Tensor, *, size: Size) -> Tensor:
    """Bring images (B, C, h, w) down to `size` (H, W) with antialiasing; as they are where that is not smaller."""
    if size[0] * size[1] >= images.shape[-2] * images.shape[-1]:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def keep_ratio_size(image_size: Size, *, long: int, short: int) -> Size:
    """Largest (H, W) of the image's proportions whose longer side is at most `long` and shorter at most `short`.

    Rounded half up, as in the single-scale test of the paper's code: a 1024 x 2048 image with `long` 2049 and
    `short` 1025 becomes 1025 x 2049.
    """
    height, width = _checked(image_size)
    # Integers keep the rounding exact: min(long / l, short / s) is compared as long * s <= short * l.
    longer, shorter = max(height, width), min(height, width)
    numerator, denominator = (long, longer) if long * shorter <= short * longer else (short, shorter)
    return _scaled(height, numerator, denominator), _scaled(width, numerator, denominator)


def short_side_size(image_size: Size, *, short: int) -> Size:
    """(H, W) of the image's proportions whose shorter side is `short` exactly, with no limit on the longer one."""
    height, width = _checked(image_size)
    shorter = min(height, width)
    return _scaled(height, short, shorter), _scaled(width, short, shorter)


def covering_size(image_size: Size, *, window: Size) -> Size:
    """Smallest (H, W) of the image's proportions that holds one `window`; the image's own where it already does."""
    height, width = _checked(image_size)
    if height >= window[0] and width >= window[1]:
        return height, width
    # Of the two factors window/side take the larger one; as integers, for exact rounding.
    tall = window[0] * width >= window[1] * height
    numerator, denominator = (window[0], height) if tall else (window[1], width)
    return (
        max(_scaled(height, numerator, denominator), window[0]),
        max(_scaled(width, numerator, denominator), window[1]),
    )


def _scaled(side: int, numerator: int, denominator: int) -> int:
    """side * numerator / denominator rounded half up, at least 1."""
    return max((2 * side * numerator + denominator) // (2 * denominator), 1)


def _checked(image_size: Size) -> Size:
    height, width = image_size
    if height < 1 or width < 1:
        raise UserError(f"an image of {height} x {width} pixels cannot be resized; both sides must be at least 1")
    return height, width
