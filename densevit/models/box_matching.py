"""Which true box each anchor or proposal stands for, in bounded memory however many there are.

Shapes: M true boxes, N candidates, boxes XYXY.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torchvision.ops import box_iou

BACKGROUND = -1
"""A candidate below the lower threshold."""
BETWEEN = -2
"""A candidate between the thresholds, which counts neither way."""
MAX_PAIRS = 1 << 24
"""Pairs of boxes whose overlap is held at a time (64 MiB)."""


def match_boxes(
    truth: Tensor,
    candidates: Tensor,
    *,
    foreground: float,
    background: float,
    keep_best: bool = False,
    max_pairs: int = MAX_PAIRS,
) -> Tensor:
    """(M, 4) and (N, 4) -> (N,) int64: the index of the true box, `BACKGROUND` or `BETWEEN`.

    A candidate belongs to the true box that it overlaps most if their IoU is at least `foreground`, is background below
    `background`. With `keep_best` every candidate that no other surpasses for some true box, and overlaps it at all, is
    foreground too (Faster R-CNN, Ren et al., 2015). Without true boxes all are background.
    """
    if len(truth) == 0:
        return candidates.new_full((len(candidates),), BACKGROUND, dtype=torch.int64)
    parts = candidates.split(max(max_pairs // len(truth), 1))
    whole = [box_iou(truth, candidates)] if len(parts) <= 1 else []

    def overlaps() -> Iterable[Tensor]:
        """(M, n) IoU of one part of the candidates after the other; computed again for each pass over many."""
        return whole or (box_iou(truth, part) for part in parts)

    overlap, nearest = (torch.cat(x) for x in zip(*(iou.max(dim=0) for iou in overlaps()), strict=True))
    matched = nearest.where(overlap >= foreground, BETWEEN).where(overlap >= background, BACKGROUND)
    if keep_best and len(candidates):
        best = torch.stack([iou.amax(dim=1) for iou in overlaps()]).amax(dim=0)
        best = best.where(best > 0, torch.inf)[:, None]  # a true box that overlaps nothing has no best
        is_best = torch.cat([(iou == best).any(dim=0) for iou in overlaps()])
        matched = nearest.where(is_best, matched)
    return matched
