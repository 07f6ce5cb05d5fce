"""RetinaNet (Lin et al., 2017) on a pyramid encoder, with the settings of Table 10.

torchvision's heads, focal loss (gamma 2, alpha 0.25) and L1 loss on the offsets of boxes (weights 1), both averaged per
image over its foreground anchors, then over images. Anchors: 4 x stride x 2^(0, 1/3, 2/3) at three ratios, strides 8 to
128; foreground from IoU 0.5, background below 0.4, the best anchor of an object always foreground.

Shapes: N anchors of all levels, K classes; boxes XYXY in pixels of the padded batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import batched_nms, clip_boxes_to_image

from densevit.errors import check_positive_numbers, check_whole_numbers
from densevit.models.box_anchors import RATIOS, PyramidAnchors
from densevit.models.box_matching import match_boxes
from densevit.models.detector import Detections, Detector, Target
from densevit.models.detector_fpn import RETINANET_STRIDES, retinanet_fpn
from densevit.models.pyramid import PyramidEncoder, create_pyramid

FOREGROUND, BACKGROUND = 0.5, 0.4
CANDIDATES = 1000
"""Boxes of each level that go on to non-maximum suppression."""


class RetinaNet(Detector):
    """Images -> boxes, from dense anchors in one stage."""

    with_masks = False

    def __init__(
        self,
        encoder: PyramidEncoder,
        *,
        num_classes: int,
        in_channels: int = 3,
        channels: int = 256,
        anchor_scale: float = 4.0,
        anchor_ratios: Sequence[float] = RATIOS,
    ):
        """`encoder` has strides 8, 16, 32; `anchor_scale` is the smallest anchor's side in multiples of the stride."""
        fpn = retinanet_fpn(encoder, channels)
        super().__init__(encoder, fpn, num_classes=num_classes, in_channels=in_channels)
        scales = [anchor_scale * 2 ** (i / 3) for i in range(3)]
        self.anchors = PyramidAnchors(strides=RETINANET_STRIDES, scales=scales, ratios=anchor_ratios)
        self.heads = RetinaNetHead(channels, len(scales) * len(anchor_ratios), num_classes)
        self.box_coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))

    def losses(self, batch: ImageList, maps: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """{"classification", "box"}."""
        outputs = {name: x.float() for name, x in self.heads(list(maps)).items()}
        anchors = self.anchors(batch, list(maps))
        matched = [
            match_boxes(target["boxes"], each, foreground=FOREGROUND, background=BACKGROUND, keep_best=True)
            for target, each in zip(targets, anchors, strict=True)
        ]
        losses = self.heads.compute_loss(targets, outputs, anchors, matched)
        return {"classification": losses["classification"], "box": losses["bbox_regression"]}

    def detect(self, batch: ImageList, maps: Sequence[Tensor]) -> list[Detections]:
        """Non-maximum suppression of each class, over the best `CANDIDATES` of every level."""
        outputs = self.heads(list(maps))
        scores, offsets = outputs["cls_logits"].float().sigmoid(), outputs["bbox_regression"].float()
        anchors = self.anchors(batch, list(maps))[0]
        per_cell = self.anchors.num_anchors_per_location()[0]
        levels = [x.shape[-2] * x.shape[-1] * per_cell for x in maps]
        found = []
        for i, size in enumerate(batch.image_sizes):
            parts = (x.split(levels) for x in (scores[i], offsets[i], anchors))
            found.append(self._keep_best([self._candidates(*level) for level in zip(*parts, strict=True)], size))
        return found

    def _candidates(self, scores: Tensor, offsets: Tensor, anchors: Tensor) -> Detections:
        """The best boxes of one level: scores (n, K), offsets and anchors (n, 4) -> up to `CANDIDATES` of them."""
        flat = scores.flatten()
        index = torch.where(flat > self.score_threshold)[0]
        index = index[flat[index].topk(min(CANDIDATES, len(index))).indices]
        place = index // self.num_classes
        return {
            "boxes": self.box_coder.decode_single(offsets[place], anchors[place]),
            "scores": flat[index],
            "labels": index % self.num_classes,
        }

    def _keep_best(self, levels: Sequence[Detections], size: tuple[int, int]) -> Detections:
        found = {name: torch.cat([level[name] for level in levels]) for name in levels[0]}
        found["boxes"] = clip_boxes_to_image(found["boxes"], size)
        keep = batched_nms(found["boxes"], found["scores"], found["labels"], self.nms_threshold)
        return {name: x[keep[: self.max_detections]] for name, x in found.items()}


def create_retinanet(
    encoder: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    pretrained: bool = False,
    drop_path_rate: float = 0.0,
    grad_checkpointing: bool = False,
    channels: int = 256,
    anchor_scale: float = 4.0,
    anchor_ratios: Sequence[float] = RATIOS,
    encoder_args: Mapping[str, Any] | None = None,
) -> RetinaNet:
    """RetinaNet on `encoder`, a pyramid as `create_pyramid` knows it; `channels` of the pyramid and the heads.

    `anchor_scale` 4 is the paper's; less finds smaller objects. UserError for `channels` below 1.
    """
    check_whole_numbers(channels=channels)
    check_positive_numbers(anchor_scale=anchor_scale)
    pyramid = create_pyramid(
        encoder,
        strides=RETINANET_STRIDES[:3],
        in_channels=in_channels,
        pretrained=pretrained,
        drop_path_rate=drop_path_rate,
        grad_checkpointing=grad_checkpointing,
        encoder_args=encoder_args,
    )
    return RetinaNet(
        pyramid,
        num_classes=num_classes,
        in_channels=in_channels,
        channels=channels,
        anchor_scale=anchor_scale,
        anchor_ratios=anchor_ratios,
    )
