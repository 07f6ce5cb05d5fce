"""Mean IoU over a data set: a confusion matrix counted exactly in 64-bit integers, image by image.

Protocol: sums over the whole set, then IoU = intersection / union; pixels labelled `ignore_index` count nowhere.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from densevit.errors import UserError
from densevit.evaluation.scores import SegmentationScores

BYTE_VALUES = 256
PIXELS_AT_ONCE = 1 << 15
"""Pixels joined together on the CPU: the values stay in its cache, and PyTorch runs so few without waking its
threads, which costs more than the work itself when other processes keep the cores busy."""


class MeanIoU(Metric):
    """Streaming segmentation scores; one instance per evaluation, also as a part of a LightningModule.

    scores = MeanIoU(classes)
    scores.update(labels, target)     # for every batch
    scores.compute().mean_iou

    `classes` are the class names, or their number. `compute()` gives a `SegmentationScores`, not a scalar: log
    its `mean_iou`. Across devices the counts are added.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    confusion: Tensor

    def __init__(self, classes: Sequence[str] | int, *, ignore_index: int | None = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = tuple(map(str, range(classes)) if isinstance(classes, int) else classes)
        self.ignore_index = ignore_index
        if not self.classes:
            raise UserError("mean IoU needs at least one class")
        zeros = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)
        self.add_state("confusion", zeros, dist_reduce_fx="sum")

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def update(self, labels: Tensor, target: Tensor) -> None:
        """Count one batch: predicted and true classes, integers of one and the same shape, (B, H, W) or any other.

        UserError if the target holds a value that is neither a class nor `ignore_index`.
        """
        if labels.shape != target.shape:
            raise ValueError(f"labels are {tuple(labels.shape)} but the target is {tuple(target.shape)}")
        if labels.is_floating_point() or target.is_floating_point():
            raise ValueError(f"labels {labels.dtype} and target {target.dtype} must be integers, not logits")
        if target.numel() == 0:
            return
        self.confusion += confusion_matrix(
            labels, target, num_classes=self.num_classes, ignore_index=self.ignore_index
        ).to(self.confusion.device)

    def compute(self) -> SegmentationScores:
        """Scores of everything counted so far."""
        return SegmentationScores.from_confusion(self.confusion.cpu().numpy(), classes=self.classes)


def confusion_matrix(labels: Tensor, target: Tensor, *, num_classes: int, ignore_index: int | None = 255) -> Tensor:
    """Exact counts (K, K) int64 of `target` (rows) against `labels` (columns), integer tensors of one shape.

    Pixels whose target is `ignore_index` are left out. UserError for any other target outside 0 .. K-1.
    """
    K = num_classes
    target, labels = target.flatten(), labels.flatten()
    # The joint histogram has a row for every value a target can take, so neither a mask nor a copy of the labelled
    # pixels is needed: the rows of ignored and of impossible values are looked at once, as counts.
    num_values, ignored_row = max(K, BYTE_VALUES), ignore_index
    if target.dtype != torch.uint8:
        target = target.long()
        if ignore_index is not None and not 0 <= ignore_index < num_values:  # such as -100
            target = torch.where(target == ignore_index, num_values, target)
            num_values, ignored_row = num_values + 1, num_values
        lowest, highest = target.aminmax()
        if lowest < 0 or highest >= num_values:
            raise _outside(int(lowest if lowest < 0 else highest), K, ignore_index)
    counts = _joint_histogram(target, labels, num_values=num_values, num_classes=K)
    if ignored_row is not None and ignored_row < num_values:
        counts[ignored_row] = 0
    strays = counts[K:].sum(dim=1).nonzero()
    if len(strays):
        raise _outside(K + int(strays[0]), K, ignore_index)
    return counts[:K]


def _joint_histogram(target: Tensor, labels: Tensor, *, num_values: int, num_classes: int) -> Tensor:
    """Count pairs of flat integer tensors: (num_values, num_classes) int64, on their device."""
    num_bins = num_values * num_classes
    index = torch.empty(target.shape, dtype=torch.int32, device=target.device)
    strip = PIXELS_AT_ONCE if target.device.type == "cpu" else len(target)
    for pixels, classes, joint in zip(target.split(strip), labels.split(strip), index.split(strip), strict=True):
        torch.add(pixels.int(), classes.int(), alpha=num_values, out=joint)  # class-major, targets adjacent
    counts = torch.bincount(index, minlength=num_bins)
    if len(counts) > num_bins:
        raise UserError(
            f"predicted label {int(labels.max())} is outside 0 .. {num_classes - 1}; "
            "do the model and the metric have the same classes?"
        )
    return counts.view(num_classes, num_values).T.contiguous()


def _outside(value: int, num_classes: int, ignore_index: int | None) -> UserError:
    ignored = "" if ignore_index is None else f" or {ignore_index} (ignored)"
    return UserError(
        f"the masks hold label {value}, but with {num_classes} classes a label is 0 .. {num_classes - 1}{ignored}; "
        "check the class list, or whether labels start at 1"
    )
