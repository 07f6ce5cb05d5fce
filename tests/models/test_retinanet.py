"""RetinaNet against torchvision's on the same layers, and the numbers of the protocol."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet

from densevit.models.retinanet import create_retinanet

TINY_HLG = {"embed_dims": (8, 16, 32, 64), "num_heads": (1, 1, 2, 4), "depths": (1, 1, 1, 1), "window_size": 4}


class Backbone(nn.Module):
    """Encoder and pyramid as torchvision wants them."""

    out_channels = 8

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return dict(enumerate(self.model.features(images)))


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    model = create_retinanet("hlg_tiny", num_classes=3, channels=8, encoder_args=TINY_HLG)
    for value in model.heads.parameters():  # else all scores are alike
        nn.init.normal_(value, std=0.2)
    theirs = TorchvisionRetinaNet(
        Backbone(model),
        3,
        min_size=128,
        max_size=128,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        anchor_generator=model.anchors,
        head=model.heads,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
        topk_candidates=1000,
    )
    return model, theirs


def test_losses_are_torchvisions(pair):
    ours, theirs = (each.train() for each in pair)
    images = [torch.randn(3, 128, 128) for _ in range(2)]
    targets = [
        {"boxes": torch.tensor([[3.0, 5, 40, 60], [50, 50, 90, 120]]), "labels": torch.tensor([0, 2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    for module in ours.modules():  # both must see the same statistics
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    found, expected = ours(images, targets), theirs(images, targets)
    torch.testing.assert_close(found["classification"], expected["classification"])
    torch.testing.assert_close(found["box"], expected["bbox_regression"])


@torch.no_grad()
def test_boxes_are_torchvisions(pair):
    ours, theirs = (each.eval() for each in pair)
    images = [torch.randn(3, 128, 128) for _ in range(2)]
    for found, expected in zip(ours(images), theirs(images), strict=True):
        assert len(found["boxes"]) == 100
        for name in ("boxes", "scores", "labels"):
            torch.testing.assert_close(found[name], expected[name])


def test_settings(pair):
    model, _ = pair
    assert model.encoder.strides == (8, 16, 32)
    assert model.anchors.strides == (8, 16, 32, 64, 128)
    octave = [4 * 2 ** (i / 3) for i in range(3)]
    for stride, sizes in zip(model.anchors.strides, model.anchors.sizes, strict=True):
        assert sizes == pytest.approx([stride * side for side in octave])
    assert model.anchors.aspect_ratios[0] == (0.5, 1.0, 2.0)
    assert model.box_coder.weights == (1, 1, 1, 1)
    assert (model.score_threshold, model.nms_threshold, model.max_detections) == (0.05, 0.5, 100)


def test_p6_comes_from_c5_even_of_the_same_width():
    encoder_args = {**TINY_HLG, "embed_dims": (8, 16, 32, 32), "num_heads": (1, 1, 2, 2)}
    model = create_retinanet("hlg_tiny", num_classes=2, channels=32, encoder_args=encoder_args).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps, c5 = model.features(images), model.encoder(images)[-1]
        torch.testing.assert_close(maps[3], model.fpn.extra_blocks.p6(c5))
    assert [x.shape[-1] for x in maps] == [8, 4, 2, 1, 1]
