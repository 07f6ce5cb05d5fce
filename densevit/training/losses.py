"""Losses over pixels, and their weighted sum. Shapes: B images, K classes, H W pixels.

All take (B, K, H, W) logits and (B, H, W) targets, 0 .. K-1 or `ignore_index`, and give a float32 scalar that is 0,
not NaN, where no pixel is labelled.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from densevit.errors import unknown_name
from densevit.training.config import LOSSES, LossConfig
from densevit.training.region_losses import dice_loss, lovasz_softmax

MeanOver = Literal["labelled", "all"]


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    *,
    config: LossConfig,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
) -> Tensor:
    """The sum of `config.terms`, each times its weight. `class_weights` (K,) apply to all but Dice and Lovász."""
    total = logits.new_zeros((), dtype=torch.float32)
    for name, weight in config.terms.items():
        if name == "cross_entropy":
            value = pixel_cross_entropy(
                logits,
                target,
                ignore_index=ignore_index,
                class_weights=class_weights,
                label_smoothing=config.label_smoothing,
                mean_over=config.mean_over,
            )
        elif name == "ohem":
            value = ohem_cross_entropy(
                logits,
                target,
                ignore_index=ignore_index,
                class_weights=class_weights,
                threshold=config.ohem_threshold,
                min_kept=config.ohem_min_kept,
            )
        elif name == "focal":
            value = focal_loss(
                logits,
                target,
                ignore_index=ignore_index,
                class_weights=class_weights,
                gamma=config.focal_gamma,
                mean_over=config.mean_over,
            )
        elif name == "dice":
            value = dice_loss(logits, target, ignore_index=ignore_index)
        elif name == "lovasz":
            value = lovasz_softmax(logits, target, ignore_index=ignore_index)
        else:
            raise unknown_name("loss", name, LOSSES)
        total = total + weight * value
    return total


def pixel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    mean_over: MeanOver = "labelled",
) -> Tensor:
    """Cross-entropy.

    "labelled" divides by the labelled pixels (weighted by class, as torch does); "all" divides the sum by B * H * W,
    ignored pixels included, as the authors' code does.
    """
    total = F.cross_entropy(
        logits.float(),
        target,
        weight=class_weights,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    return total / _number(target, ignore_index=ignore_index, class_weights=class_weights, mean_over=mean_over)


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
    gamma: float = 2.0,
    mean_over: MeanOver = "labelled",
) -> Tensor:
    """Cross-entropy times (1 - p) ** gamma, p the probability of the true class (Lin et al., ICCV 2017, Eq. 4)."""
    plain = F.cross_entropy(logits.float(), target, ignore_index=ignore_index, reduction="none")
    loss = plain * (1 - (-plain).exp()) ** gamma
    if class_weights is not None:
        loss = loss * class_weights[target.where(target != ignore_index, 0)]
    return loss.sum() / _number(target, ignore_index=ignore_index, class_weights=class_weights, mean_over=mean_over)


def ohem_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
    threshold: float = 0.7,
    min_kept: int = 100_000,
) -> Tensor:
    """Cross-entropy averaged over the hard pixels alone (Shrivastava et al., CVPR 2016).

    Hard are those whose true class has a probability below `threshold`; of the others, the hardest are added until
    there are `min_kept` in the batch (fewer where fewer are labelled).
    """
    labelled = target != ignore_index
    num_labelled = int(labelled.sum())
    loss = F.cross_entropy(logits.float(), target, ignore_index=ignore_index, reduction="none")
    if num_labelled == 0:
        return loss.sum()
    probability = (-loss.detach()).exp()[labelled]
    kth = probability.kthvalue(min(max(min_kept, 1), num_labelled)).values
    kept = probability <= kth if kth >= threshold else probability < threshold
    if class_weights is not None:
        loss = loss * class_weights[target.where(labelled, 0)]
    return loss[labelled][kept].mean()


def _number(target: Tensor, *, ignore_index: int, class_weights: Tensor | None, mean_over: MeanOver) -> Tensor | int:
    """What a sum over pixels is divided by."""
    if mean_over == "all":
        return target.numel()
    labelled = target != ignore_index
    if class_weights is None:
        return labelled.sum().clamp(min=1)
    weight = class_weights[target.where(labelled, 0)].mul(labelled).sum()
    return torch.where(weight > 0, weight, 1)
