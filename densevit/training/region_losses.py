"""Losses of overlap between predicted and true regions of a batch, averaged over the classes present in its targets.

Shapes as in `losses.py`: (B, K, H, W) logits, (B, H, W) targets, a float32 scalar, 0 where no pixel is labelled.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def dice_loss(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """1 - 2 sum(p t) / (sum(p) + sum(t)) of each class, p probabilities, t its pixels (Milletari et al., 3DV 2016)."""
    probability, labels = _labelled(logits, target, ignore_index=ignore_index)
    truth = F.one_hot(labels, probability.shape[1]).to(probability.dtype)
    support = truth.sum(dim=0)
    dice = 2 * (probability * truth).sum(dim=0) / (probability.sum(dim=0) + support).clamp(min=1e-12)
    return _mean_over_present(1 - dice, support)


def lovasz_softmax(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """The Lovász extension of the Jaccard loss of each class (Berman et al., CVPR 2018, Eq. 9, Alg. 1)."""
    probability, labels = _labelled(logits, target, ignore_index=ignore_index)
    truth = F.one_hot(labels, probability.shape[1]).to(probability.dtype)
    support = truth.sum(dim=0)
    if len(labels) == 0:
        return _mean_over_present(support, support) + 0 * logits.float().sum()
    errors, order = (truth - probability).abs().sort(dim=0, descending=True)
    return _mean_over_present((errors * _jaccard_steps(truth.gather(0, order))).sum(dim=0), support)


def _jaccard_steps(truth: Tensor) -> Tensor:
    """How much each next error adds to the Jaccard loss: (P, K) truth, sorted by error -> (P, K)."""
    support = truth.sum(dim=0)
    jaccard = 1 - (support - truth.cumsum(dim=0)) / (support + (1 - truth).cumsum(dim=0))
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])


def _labelled(logits: Tensor, target: Tensor, *, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Probabilities (P, K) in float32 and labels (P,) of the P labelled pixels."""
    labelled = target != ignore_index
    return logits.float().softmax(dim=1).movedim(1, -1)[labelled], target[labelled]


def _mean_over_present(values: Tensor, support: Tensor) -> Tensor:
    present = support > 0
    return (values * present).sum() / present.sum().clamp(min=1)
