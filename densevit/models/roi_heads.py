"""What Mask R-CNN does with its proposals (He et al., 2017): class, box, mask, with the settings of Table 11.

512 proposals and true boxes are drawn per image, at most a quarter foreground (IoU from 0.5). Two fully connected
layers on 7 x 7 features; four convolutions on 14 x 14 features give masks of 28 x 28. Unlike in torchvision the loss of
the boxes is plain L1 (offsets in units of 0.1, 0.1, 0.2, 0.2), mask targets are 0 or 1 and made a few at a time, and
everything behind the layers is float32.

Shapes: R proposals over all images, C channels, K classes without background, M true boxes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import roi_align

from densevit.models.box_matching import match_boxes
from densevit.models.detector import Detections, Target
from densevit.models.pyramid_roi_align import PyramidRoIAlign

FOREGROUND = 0.5
BOX_SIZE, MASK_SIZE = 7, 14
"""Side of the features of a region, for its box and its mask."""
MASKS_AT_ONCE = 16


class Samples(NamedTuple):
    """The proposals of a batch that are learned from; labels count from 1, 0 is background."""

    boxes: Sequence[Tensor]
    truth: Sequence[Tensor]
    """Index of the true box that each stands for (0 where it is background)."""
    labels: Sequence[Tensor]
    offsets: Sequence[Tensor]
    """From the proposals to their true boxes."""


class MaskRCNNRegions(RoIHeads):
    """torchvision's heads of boxes and masks; `losses` and `detect` in place of its `forward`."""

    def __init__(self, *, num_classes: int, channels: int, fc_channels: int, num_samples: int, strides: Sequence[int]):
        super().__init__(
            PyramidRoIAlign(BOX_SIZE, strides=strides),
            TwoMLPHead(channels * BOX_SIZE**2, fc_channels),
            FastRCNNPredictor(fc_channels, num_classes + 1),
            fg_iou_thresh=FOREGROUND,
            bg_iou_thresh=FOREGROUND,
            batch_size_per_image=num_samples,
            positive_fraction=0.25,
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
            mask_roi_pool=PyramidRoIAlign(MASK_SIZE, strides=strides),
            mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1),
            mask_predictor=MaskRCNNPredictor(channels, channels, num_classes + 1),
        )

    def losses(
        self, maps: Sequence[Tensor], proposals: Sequence[Tensor], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """{"classification", "box", "mask"}; the targets' labels count from 0."""
        from_one = [{**target, "labels": target["labels"] + 1} for target in targets]
        drawn = Samples(*self.select_training_samples(list(proposals), from_one))
        logits, offsets = self._boxes(maps, drawn.boxes)
        labels = torch.cat(list(drawn.labels))
        positive = torch.where(labels > 0)[0]
        own = offsets.view(len(labels), -1, 4)[positive, labels[positive]]
        box = F.l1_loss(own, torch.cat(list(drawn.offsets))[positive], reduction="sum")
        return {
            "classification": F.cross_entropy(logits, labels),
            "box": box / max(len(labels), 1),
            "mask": self._mask_loss(maps, drawn, targets),
        }

    def detect(
        self, maps: Sequence[Tensor], proposals: Sequence[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Detections]:
        """Non-maximum suppression of each class; the masks (n, 1, 28, 28) of what is left."""
        boxes, scores, labels = self.postprocess_detections(*self._boxes(maps, proposals), list(proposals), sizes)
        probs = self._masks(maps, boxes, torch.cat(labels)).sigmoid()[:, None].split([len(each) for each in boxes])
        return [
            {"boxes": boxes[i], "scores": scores[i], "labels": labels[i] - 1, "masks": probs[i]}
            for i in range(len(boxes))
        ]

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """For each image: the true box of every proposal (0 where there is none), and its label (0 background)."""
        truth, labels = [], []
        for each, boxes, classes in zip(proposals, gt_boxes, gt_labels, strict=True):
            matched = match_boxes(boxes, each, foreground=FOREGROUND, background=FOREGROUND)
            truth.append(matched.clamp(min=0))
            labels.append(classes[truth[-1]].where(matched >= 0, 0) if len(boxes) else torch.zeros_like(matched))
        return truth, labels

    def _boxes(self, maps: Sequence[Tensor], proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (R, K + 1) and offsets (R, 4 (K + 1))."""
        logits, offsets = self.box_predictor(self.box_head(self.box_roi_pool(maps, proposals)))
        return logits.float(), offsets.float()

    def _masks(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Mask logits (R, 28, 28) of each box's own class."""
        logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(maps, boxes)))
        return logits[torch.arange(len(labels), device=labels.device), labels].float()

    def _mask_loss(self, maps: Sequence[Tensor], drawn: Samples, targets: Sequence[Target]) -> Tensor:
        positive = [labels > 0 for labels in drawn.labels]
        boxes = [each[here] for each, here in zip(drawn.boxes, positive, strict=True)]
        goals = [
            mask_targets(target["masks"], each, index[here], size=2 * MASK_SIZE)
            for target, each, index, here in zip(targets, boxes, drawn.truth, positive, strict=True)
        ]
        labels = torch.cat([each[here] for each, here in zip(drawn.labels, positive, strict=True)])
        logits = self._masks(maps, boxes, labels)
        total = F.binary_cross_entropy_with_logits(logits, torch.cat(goals), reduction="sum")
        return total / max(logits.numel(), 1)


def mask_targets(masks: Tensor, boxes: Tensor, index: Tensor, *, size: int) -> Tensor:
    """What a mask head should say in its boxes: masks (M, H, W), boxes (R, 4), index (R,) -> 0 or 1, (R, size, size).

    Box i looks at mask `index[i]`. Only `MASKS_AT_ONCE` masks are numbers at a time, however many there are.
    """
    found = [masks.new_zeros((0, size, size), dtype=torch.float32)]
    for part, places in zip(boxes.split(MASKS_AT_ONCE), index.split(MASKS_AT_ONCE), strict=True):
        own = torch.arange(len(part), device=part.device, dtype=part.dtype)
        rois = torch.cat([own[:, None], part], dim=1)
        inside = roi_align(masks[places][:, None].float(), rois, size, sampling_ratio=0, aligned=True)
        found.append((inside[:, 0] >= 0.5).float())
    return torch.cat(found)
