"""Test-time augmentation: several scales and the mirror image, their probabilities averaged.

Shapes: B images, K classes, H W image, in pixels. Knows no model: `forward` is any callable images
(B, C, h, w) -> logits (B, K, h, w), whole-image or sliding.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from densevit.errors import UserError
from densevit.inference.resize import Size, resize_bilinear, short_side_size

PAPER_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The six scales of the paper's multi-scale results, each also mirrored."""


def multi_scale_sizes(
    image_size: Size, *, base: Size, ratios: Sequence[float] = PAPER_RATIOS, crop_size: Size | None = None
) -> list[Size]:
    """The (H, W) at which an image is tested, one for each of `ratios`, proportions kept.

    The short side is min(base) x ratio rounded down, but no less than the short side of the sliding window
    `crop_size`; the long side has no limit (the authors' `setr_multi_scale`). Small ratios may thus give equal
    sizes; each still counts once in the average. `base` is the data set's test size, in any order:
    (1025, 2049) Cityscapes, (512, 2048) ADE20K, (520, 520) Pascal Context.
    """
    if not ratios or min(ratios) <= 0:
        raise UserError(f"scale ratios {list(ratios)} are not usable; give one or more numbers above 0")
    least = min(crop_size) if crop_size else 1
    return [short_side_size(image_size, short=max(int(min(base) * ratio), least)) for ratio in ratios]


@torch.no_grad()
def multi_scale_probabilities(
    forward: Callable[[Tensor], Tensor], image: Tensor, *, sizes: Sequence[Size], flip: bool = True
) -> Tensor:
    """Mean of the class probabilities over scales and mirror images: (B, C, H, W) -> (B, K, H, W) in float32.

    For every one of `sizes` (repeats count again but are computed once): resize the image, `forward`, resize the
    logits to (H, W), softmax; with `flip` the same for the mirrored image, mirrored back as probabilities.
    The plain mean of all maps is returned.
    """
    if not sizes:
        raise UserError("no sizes to test at; give at least one (H, W)")
    height, width = image.shape[-2:]
    total = len(sizes) * (2 if flip else 1)
    mean: Tensor | None = None
    for size, repeats in Counter((int(h), int(w)) for h, w in sizes).items():
        resized = resize_bilinear(image, size=size)
        for mirrored in (False, True) if flip else (False,):
            logits = forward(resized.flip(-1) if mirrored else resized)
            probs = _softmax(resize_bilinear(logits.float(), size=(height, width)))
            if mirrored:
                probs = probs.flip(-1)
            if mean is None:
                mean = torch.zeros_like(probs)
            mean.add_(probs, alpha=repeats / total)
    assert mean is not None
    return mean


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over classes, (B, K, H, W) -> (B, K, H, W), image by image so that only one is held twice."""
    probs = torch.empty_like(logits)
    for scores, out in zip(logits, probs, strict=True):
        torch.softmax(scores, dim=0, out=out)
    return probs
