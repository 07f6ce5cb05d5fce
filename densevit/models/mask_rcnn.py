"""Mask R-CNN (He et al., 2017) on a pyramid encoder, with the settings of Table 11.

    model = create_mask_rcnn("hlg_tiny", num_classes=80)
    losses = model.train()(images, targets)              # images: list of (3, H, W), targets: list of dicts
    objects = model.eval()(images)                       # list of {"boxes", "scores", "labels", "masks"}

The parts are in `region_proposals` and `roi_heads`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from densevit.errors import check_positive_numbers, check_whole_numbers
from densevit.models.box_anchors import RATIOS, PyramidAnchors
from densevit.models.detector import Detections, Detector, Target
from densevit.models.detector_fpn import MASK_RCNN_STRIDES, mask_rcnn_fpn
from densevit.models.pyramid import STRIDES, PyramidEncoder, create_pyramid
from densevit.models.region_proposals import ProposalNetwork
from densevit.models.roi_heads import MaskRCNNRegions


class MaskRCNN(Detector):
    """Images -> boxes and masks: regions are proposed first, then each is looked at by itself."""

    with_masks = True

    def __init__(
        self,
        encoder: PyramidEncoder,
        *,
        num_classes: int,
        in_channels: int = 3,
        channels: int = 256,
        fc_channels: int = 1024,
        num_proposals: int = 1000,
        num_samples: int = 512,
        anchor_scale: float = 8.0,
        anchor_ratios: Sequence[float] = RATIOS,
    ):
        """`encoder` has strides 4 to 32; the other arguments are those of `create_mask_rcnn`."""
        fpn = mask_rcnn_fpn(encoder, channels)
        super().__init__(encoder, fpn, num_classes=num_classes, in_channels=in_channels)
        anchors = PyramidAnchors(strides=MASK_RCNN_STRIDES, scales=(anchor_scale,), ratios=anchor_ratios)
        self.rpn = ProposalNetwork(anchors, channels=channels, num_proposals=num_proposals)
        self.roi_heads = MaskRCNNRegions(
            num_classes=num_classes,
            channels=channels,
            fc_channels=fc_channels,
            num_samples=num_samples,
            strides=STRIDES,
        )

    def losses(self, batch: ImageList, maps: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """{"proposal_objectness", "proposal_box", "classification", "box", "mask"}."""
        proposals, losses = self.rpn(batch, dict(enumerate(maps)), targets)
        named = {
            "proposal_objectness": losses["loss_objectness"],
            "proposal_box": losses["loss_rpn_box_reg"],
        }
        return named | self.roi_heads.losses(maps, proposals, targets)

    def detect(self, batch: ImageList, maps: Sequence[Tensor]) -> list[Detections]:
        proposals, _ = self.rpn(batch, dict(enumerate(maps)))
        heads = self.roi_heads
        heads.score_thresh, heads.nms_thresh = self.score_threshold, self.nms_threshold
        heads.detections_per_img = self.max_detections
        return heads.detect(maps, proposals, batch.image_sizes)


def create_mask_rcnn(
    encoder: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    pretrained: bool = False,
    drop_path_rate: float = 0.0,
    grad_checkpointing: bool = False,
    channels: int = 256,
    fc_channels: int = 1024,
    num_proposals: int = 1000,
    num_samples: int = 512,
    anchor_scale: float = 8.0,
    anchor_ratios: Sequence[float] = RATIOS,
    encoder_args: Mapping[str, Any] | None = None,
) -> MaskRCNN:
    """Mask R-CNN on `encoder`, a pyramid as `create_pyramid` knows it. The defaults are the paper's.

    `channels` of the pyramid and the convolutional heads, `fc_channels` of the box head; `num_proposals` regions go to
    it, `num_samples` of them in training. `anchor_scale` is the anchors' side in multiples of the stride: less finds
    smaller objects. UserError for widths and numbers below 1.
    """
    check_whole_numbers(
        channels=channels, fc_channels=fc_channels, num_proposals=num_proposals, num_samples=num_samples
    )
    check_positive_numbers(anchor_scale=anchor_scale)
    pyramid = create_pyramid(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        drop_path_rate=drop_path_rate,
        grad_checkpointing=grad_checkpointing,
        encoder_args=encoder_args,
    )
    return MaskRCNN(
        pyramid,
        num_classes=num_classes,
        in_channels=in_channels,
        channels=channels,
        fc_channels=fc_channels,
        num_proposals=num_proposals,
        num_samples=num_samples,
        anchor_scale=anchor_scale,
        anchor_ratios=anchor_ratios,
    )
