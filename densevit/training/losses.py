"""Pixel-wise losses. Shapes: B images, K classes, H W pixels; targets hold 0 .. K-1 or `ignore_index`."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    mean_over: Literal["labelled", "all"] = "labelled",
) -> Tensor:
    """Cross-entropy of (B, K, H, W) logits against (B, H, W) integer labels, a scalar in float32.

    "labelled" divides by the labelled pixels (weighted by class, as torch does); "all" divides the sum by B * H * W,
    ignored pixels included, as the authors' code does. A batch without any label gives 0, not NaN.
    """
    total = F.cross_entropy(
        logits.float(),
        target,
        weight=class_weights,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    if mean_over == "all":
        return total / target.numel()
    labelled = target != ignore_index
    if class_weights is None:
        return total / labelled.sum().clamp(min=1)
    weight = class_weights[target.where(labelled, 0)].mul(labelled).sum()
    return total / torch.where(weight > 0, weight, 1)
