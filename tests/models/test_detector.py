"""Both detectors: losses and objects, none and many of them, half precision, scaling, refusals."""

import pytest
import torch
from torch import nn

from densevit.errors import UserError
from densevit.models.catalog import create_model, list_models, model_kind
from densevit.models.detector import paste_masks

TINY_HLG = {"embed_dims": (8, 16, 32, 64), "num_heads": (1, 1, 2, 4), "depths": (1, 1, 1, 1), "window_size": 4}
SMALL = {
    "retinanet": {"channels": 8, "encoder_args": TINY_HLG},
    "mask_rcnn": {
        "channels": 8,
        "fc_channels": 16,
        "num_proposals": 30,
        "num_samples": 16,
        "anchor_scale": 4.0,
        "encoder_args": TINY_HLG,
    },
}
KINDS = sorted(SMALL)
LOSSES = {
    "retinanet": {"classification", "box"},
    "mask_rcnn": {"proposal_objectness", "proposal_box", "classification", "box", "mask"},
}
SIZES = [(40, 64), (50, 36)]


def make(kind, **changes):
    torch.manual_seed(0)
    return create_model(f"{kind}_hlg_tiny", num_classes=3, **{**SMALL[kind], **changes})


def images(dtype=torch.float32):
    return [torch.randn(3, *size, dtype=dtype) for size in SIZES]


def target(size, number):
    """Rectangles of at least 4 pixels, and masks that fill them."""
    low = torch.rand(number, 2) * torch.tensor([size[1] - 20.0, size[0] - 20.0])
    boxes = torch.cat([low, low + 4 + 16 * torch.rand(number, 2)], dim=1)
    masks = torch.zeros(number, *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    return {"boxes": boxes, "labels": torch.randint(0, 3, (number,)), "masks": masks}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numbers", [(3, 5), (0, 2), (0, 0)])
def test_losses_reach_every_parameter(kind, numbers):
    model = make(kind)
    losses = model(images(), [target(size, number) for size, number in zip(SIZES, numbers, strict=True)])
    assert losses.keys() == LOSSES[kind]
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    assert (losses["box"] > 0) == (sum(numbers) > 0)
    sum(losses.values()).backward()
    unused = [name for name, value in model.named_parameters() if value.grad is None]
    assert not unused, "several devices would wait for the gradients of these"


@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_objects_in_bounded_memory(kind, monkeypatch):
    monkeypatch.setattr("densevit.models.box_matching.MAX_PAIRS", 1000)
    losses = make(kind)([torch.randn(3, 64, 64)], [target((64, 64), 300)])
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("autocast", [False, True])
def test_objects(kind, autocast):
    model = make(kind).eval()
    model.set_thresholds(score_threshold=0.0, nms_threshold=0.5, max_detections=7, mask_threshold=0.5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = model(images())
    for each, (height, width) in zip(found, SIZES, strict=True):
        assert each.keys() == {"boxes", "scores", "labels"} | ({"masks"} if model.with_masks else set())
        boxes, scores = each["boxes"], each["scores"]
        assert boxes.shape == (7, 4)
        assert boxes.dtype == scores.dtype == torch.float32
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert (scores.diff() <= 0).all()
        assert each["labels"].dtype == torch.int64
        assert set(each["labels"].tolist()) <= {0, 1, 2}
        if model.with_masks:
            assert each["masks"].shape == (7, height, width)
            assert each["masks"].dtype == torch.bool


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_training_step(kind):
    model = make(kind)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images(), [target(size, 3) for size in SIZES])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters())


def test_objects_scaled_to_the_stored_image():
    model = make("mask_rcnn").eval()
    model.set_thresholds(score_threshold=0.0, nms_threshold=0.5, max_detections=3, mask_threshold=0.5)
    picture = images()[:1]
    with torch.no_grad():
        plain, scaled = model(picture)[0], model(picture, sizes=[(80, 192)])[0]
    torch.testing.assert_close(scaled["boxes"], plain["boxes"] * torch.tensor([3.0, 2, 3, 2]))
    assert scaled["masks"].shape == (3, 80, 192)
    torch.testing.assert_close(scaled["scores"], plain["scores"])


def test_nothing_found():
    for kind in KINDS:
        model = make(kind).eval()
        model.set_thresholds(score_threshold=1.0, nms_threshold=0.5, max_detections=7, mask_threshold=0.5)
        with torch.no_grad():
            found = model(images())[1]
        assert found["boxes"].shape == (0, 4)
        assert not model.with_masks or found["masks"].shape == (0, *SIZES[1])


def test_a_batch_is_only_padded():
    batch = make("retinanet").batch(images())
    assert batch.tensors.shape == (2, 3, 64, 64)
    assert batch.image_sizes == SIZES
    pictures = [torch.ones(3, 32, 32), torch.ones(3, 32, 32)]
    assert torch.equal(make("retinanet").batch(pictures).tensors, torch.ones(2, 3, 32, 32))


def test_paste_masks():
    probs = torch.ones(4, 1, 28, 28)
    probs[1, :, :14] = 0
    boxes = torch.tensor([[2.0, 3, 8, 9], [-4, 0, 10, 20.4], [10.6, 20.6, 30, 30], [5.1, 5.1, 5.4, 5.4]])
    masks = paste_masks(probs, boxes, size=(24, 16), threshold=0.5)
    expected = torch.zeros_like(masks)
    expected[0, 3:9, 2:8] = True
    expected[1, 10:20, :10] = True
    expected[2, 21:, 11:] = True  # centres from 20.5 on are in the box from 20.6 on with the next pixel
    assert torch.equal(masks, expected)
    assert not paste_masks(probs, boxes, size=(24, 16), threshold=1.0).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.tensor([[4.0, 4, 4, 9]]), "labels": torch.tensor([0])}, r"box \[4.0, 4.0, 4.0, 9.0\] has no"),
        ({"boxes": torch.tensor([[4.0, 4, 8, 9]]), "labels": torch.tensor([3])}, r"labels must be 0 .. 2, not \[3\]"),
        ({"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}, "the targets have none"),
        ({"masks": torch.zeros(1, 40, 32, dtype=torch.bool)}, r"masks must be \(1, 40, 64\)"),
    ],
)
def test_targets_that_cannot_be_learned(change, message):
    base = {"boxes": torch.tensor([[4.0, 4, 8, 9]]), "labels": torch.tensor([1])}
    with pytest.raises(UserError, match=message):
        make("mask_rcnn")(images()[:1], [base | change])


def test_modes_and_channels_are_checked():
    model = make("retinanet")
    with pytest.raises(UserError, match=r"needs targets; call model.eval\(\)"):
        model(images())
    with pytest.raises(UserError, match=r"call model.train\(\)"):
        model.eval()(images(), [target(size, 1) for size in SIZES])
    with pytest.raises(UserError, match=r"images must be \(3, H, W\), not \(4, 8, 8\)"):
        model([torch.zeros(4, 8, 8)])


def test_names():
    names = list_models("*", kind="detection")
    assert {"retinanet_hlg_tiny", "mask_rcnn_hlg_large", "mask_rcnn_resnet50", "retinanet_swin_tiny"} <= set(names)
    assert model_kind("mask_rcnn_pvt_v2_b2") == "detection"
    with pytest.raises(UserError, match="did you mean 'retinanet_hlg_tiny'"):
        model_kind("retinanet_hlg_tinny")
    with pytest.raises(UserError, match="did you mean 'anchor_scale'"):
        create_model("retinanet_hlg_tiny", num_classes=3, anchor_scales=2)
    with pytest.raises(UserError, match="argument of retinanet_hlg_tiny 'fc_channels'"):
        create_model("retinanet_hlg_tiny", num_classes=3, fc_channels=2)


@pytest.mark.parametrize("name", ["retinanet_resnet10t", "mask_rcnn_swin_tiny", "mask_rcnn_pvt_v2_b0"])
def test_any_pyramid_of_timm(name):
    arguments = {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)} if "swin" in name else {}
    small = {**SMALL[name.rpartition("_hlg")[0] or ("mask_rcnn" if "mask" in name else "retinanet")]}
    model = create_model(name, num_classes=2, **{**small, "encoder_args": arguments, "channels": 8}, in_channels=4)
    with torch.no_grad():
        losses = model([torch.randn(4, 64, 64)] * 2, [target((64, 64), 1) | {"labels": torch.tensor([1])}] * 2)
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("kind", KINDS)
def test_config_rebuilds_the_model(kind):
    model = make(kind)
    again = create_model(**model.config)
    again.load_state_dict(model.state_dict())
    assert isinstance(again, nn.Module)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("mask_rcnn_hlg_tiny", {"num_samples": 0}, "num_samples must be a whole number of at least 1, not 0"),
        ("mask_rcnn_hlg_tiny", {"fc_channels": -3}, "fc_channels must be a whole number of at least 1, not -3"),
        ("retinanet_hlg_tiny", {"channels": "abc"}, "channels must be a whole number of at least 1, not 'abc'"),
        ("retinanet_hlg_tiny", {"anchor_scale": -1}, "anchor_scale must be a number above 0, not -1"),
        ("retinanet_hlg_tiny", {"anchor_ratios": []}, r"anchor_ratios must be a list of numbers, .* not \[\]"),
        ("mask_rcnn_hlg_tiny", {"anchor_ratios": [0, 1]}, "anchor_ratios must be a number above 0, not 0"),
    ],
)
def test_arguments_out_of_range(name, args, message):
    with pytest.raises(UserError, match=message):
        create_model(name, num_classes=2, **args)
