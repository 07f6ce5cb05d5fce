"""Mask R-CNN: its losses by hand, mask targets, and the numbers of the protocol."""

from copy import deepcopy
from math import log

import pytest
import torch
from torch import nn
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from densevit.models.mask_rcnn import create_mask_rcnn
from densevit.models.roi_heads import mask_targets

TINY_HLG = {"embed_dims": (8, 16, 32, 64), "num_heads": (1, 1, 2, 4), "depths": (1, 1, 1, 1), "window_size": 4}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_mask_rcnn("hlg_tiny", num_classes=3, channels=8, fc_channels=16, encoder_args=TINY_HLG)


def test_proposal_losses_by_hand(model):
    labels = [torch.tensor([1.0, 0, -1, 0]), torch.tensor([0.0, 0, -1, -1])]
    goals = [torch.ones(4, 4), torch.ones(4, 4)]
    offsets = torch.zeros(8, 4)
    offsets[0] = 0.95  # smooth L1 would be far below the plain one here
    objectness, box = model.rpn.compute_loss(torch.zeros(8, 1), offsets, labels, goals)
    assert objectness.item() == pytest.approx(log(2))
    assert box.item() == pytest.approx(4 * 0.05 / 5)


def test_proposals_and_their_targets(model):
    anchors = [torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4], [50, 50, 60, 60], [0, 2, 10, 10]])]
    truth = torch.tensor([[0.0, 0, 10, 8.0], [44, 44, 54, 54]])
    labels, goals = model.rpn.assign_targets_to_anchors(anchors, [{"boxes": truth}])
    # 0.8 and the best of its object; 0.5 and 0.6 count neither way; 0.09 is the best that the second object has
    assert labels[0].tolist() == [1, -1, 1, -1]
    assert goals[0][[0, 2]].tolist() == truth.tolist()
    labels, goals = model.rpn.assign_targets_to_anchors(anchors, [{"boxes": torch.zeros(0, 4)}])
    assert labels[0].tolist() == [0] * 4
    assert goals[0].shape == (4, 4)


def test_losses_of_regions_by_hand(model):
    heads = deepcopy(model.roi_heads).train()
    box = torch.tensor([[4.0, 4, 24, 24]])
    shifted = torch.tensor([[5.0, 4, 25, 24]])  # IoU 0.9; offset -1 / 20 in units of 0.1: -0.5
    far = torch.tensor([[40.0, 40, 60, 60]])
    target = {"boxes": box, "labels": torch.tensor([2]), "masks": torch.zeros(1, 64, 64, dtype=torch.bool)}
    target["masks"][:, 4:24, 4:24] = True
    for predictor in (heads.box_predictor.cls_score, heads.box_predictor.bbox_pred, heads.mask_predictor[2]):
        for value in predictor.parameters():
            nn.init.zeros_(value)
    maps = [torch.zeros(1, 8, 64 // stride, 64 // stride) for stride in (4, 8, 16, 32)]
    losses = heads.losses(maps, [torch.cat([shifted, far])], [target])
    assert losses["classification"].item() == pytest.approx(log(4))  # 3 classes and the background
    assert losses["box"].item() == pytest.approx(0.5 / 3)  # over the two proposals and the true box
    assert losses["mask"].item() == pytest.approx(log(2))


def test_mask_targets():
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 10:20, 10:30] = True
    masks[1, :, 40:] = True
    boxes = torch.tensor([[10.0, 10, 30, 20], [10, 10, 30, 30], [30, 0, 50, 40]])
    found = mask_targets(masks, boxes, torch.tensor([0, 0, 1]), size=28)
    assert found.shape == (3, 28, 28)
    assert found[0].all()
    assert found[1, :14].all()
    assert not found[1, 14:].any()
    assert torch.equal(found[2], (torch.arange(28) >= 14).float().expand(28, 28))
    assert mask_targets(masks, boxes[:0], torch.zeros(0, dtype=torch.int64), size=28).shape == (0, 28, 28)


def test_mask_targets_in_pieces_and_near_torchvisions():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(5, 8, 8, generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2) > 0.5
    low = torch.rand(40, 2, generator=generator) * 30
    boxes = torch.cat([low, low + 10 + torch.rand(40, 2, generator=generator) * 20], dim=1)
    index = torch.randint(0, 5, (40,), generator=generator)
    found = mask_targets(masks, boxes, index, size=28)
    single = torch.cat([mask_targets(masks, boxes[i : i + 1], index[i : i + 1], size=28) for i in range(40)])
    assert torch.equal(found, single)
    theirs = project_masks_on_boxes(masks, boxes - 0.5, index, 28)  # half a pixel, and not cut to 0 and 1
    assert (found - theirs).abs().mean() < 0.05


def test_settings(model):
    assert model.encoder.strides == (4, 8, 16, 32)
    anchors, rpn, heads = model.rpn.anchor_generator, model.rpn, model.roi_heads
    assert anchors.strides == (4, 8, 16, 32, 64)
    assert [size for (size,) in anchors.sizes] == [32, 64, 128, 256, 512]
    assert (rpn.fg_bg_sampler.batch_size_per_image, rpn.fg_bg_sampler.positive_fraction) == (256, 0.5)
    assert rpn._pre_nms_top_n == {"training": 2000, "testing": 1000}
    assert rpn._post_nms_top_n == {"training": 1000, "testing": 1000}
    assert (rpn.nms_thresh, rpn.score_thresh) == (0.7, 0)
    assert (heads.fg_bg_sampler.batch_size_per_image, heads.fg_bg_sampler.positive_fraction) == (512, 0.25)
    assert [round(1 / weight, 3) for weight in heads.box_coder.weights] == [0.1, 0.1, 0.2, 0.2]
    assert (heads.box_roi_pool.size, heads.mask_roi_pool.size) == (7, 14)
    assert (model.score_threshold, model.nms_threshold, model.max_detections) == (0.05, 0.5, 100)
    assert model.mask_threshold == 0.5


def test_thresholds_reach_the_heads(model):
    model.eval().set_thresholds(score_threshold=0.9, nms_threshold=0.3, max_detections=2, mask_threshold=0.6)
    with torch.no_grad():
        model([torch.randn(3, 32, 32)])
    assert (model.roi_heads.score_thresh, model.roi_heads.nms_thresh) == (0.9, 0.3)
    assert model.roi_heads.detections_per_img == 2
