"""The region proposal network of Mask R-CNN (Ren et al., 2015): torchvision's, with the settings of Table 11.

One anchor of 8 x stride per ratio and level. Foreground from IoU 0.7 and the best of each object, background below 0.3;
256 of them are drawn, at most half foreground. Unlike in torchvision the loss of the boxes is plain L1, the matching
bounded in memory, and everything behind the convolutions float32.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from densevit.models.box_anchors import PyramidAnchors
from densevit.models.box_matching import BETWEEN, match_boxes

FOREGROUND, BACKGROUND = 0.7, 0.3


class ProposalHead(RPNHead):
    """Maps -> objectness logits (B, A, h, w) and offsets (B, 4 A, h, w) of each level, in float32."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, offsets = super().forward(x)
        return [each.float() for each in logits], [each.float() for each in offsets]


class ProposalNetwork(RegionProposalNetwork):
    """Batch and maps -> up to `num_proposals` boxes for each image, and in training the losses."""

    def __init__(self, anchors: PyramidAnchors, *, channels: int, num_proposals: int = 1000):
        super().__init__(
            anchors,
            ProposalHead(channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=FOREGROUND,
            bg_iou_thresh=BACKGROUND,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2 * num_proposals, "testing": num_proposals},
            post_nms_top_n={"training": num_proposals, "testing": num_proposals},
            nms_thresh=0.7,
        )

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """For each image: 1 foreground, 0 background, -1 neither, (N,); and the box to reach, (N, 4)."""
        labels, goals = [], []
        for each, target in zip(anchors, targets, strict=True):
            truth = target["boxes"]
            matched = match_boxes(truth, each, foreground=FOREGROUND, background=BACKGROUND, keep_best=True)
            labels.append((matched >= 0).float().where(matched != BETWEEN, -1.0))
            goals.append(truth[matched.clamp(min=0)] if len(truth) else torch.zeros_like(each))
        return labels, goals

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy over the drawn anchors; L1 over the foreground ones, divided by the number of drawn ones."""
        positive, negative = (torch.where(torch.cat(drawn))[0] for drawn in self.fg_bg_sampler(labels))
        drawn = torch.cat([positive, negative])
        goals = torch.cat(list(regression_targets))[positive]
        box = F.l1_loss(pred_bbox_deltas[positive], goals, reduction="sum") / max(len(drawn), 1)
        return F.binary_cross_entropy_with_logits(objectness.flatten()[drawn], torch.cat(labels)[drawn]), box
