"""Image, boxes and masks go through every step together."""

import pytest
import torch
from torchvision import tv_tensors

from densevit.data.detection_transforms import (
    SHORT_SIDES,
    DetectionEvalTransform,
    DropCrowd,
    RandomShortSide,
    ScaleJitter,
    detection_train_transform,
)
from densevit.errors import UserError

RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def sample(height=40, width=60, boxes=((10, 5, 30, 15), (0, 20, 60, 40)), crowd=(), masks=True):
    """Objects are rectangles, painted into the image with brightness 50, 100 ..."""
    image, drawn = torch.zeros(3, height, width, dtype=torch.uint8), torch.zeros(len(boxes), height, width).bool()
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        image[:, y1:y2, x1:x2] = 50 * (number + 1)
        drawn[number, y1:y2, x1:x2] = True
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {
        "image": tv_tensors.Image(image),
        "boxes": tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width)),
        "labels": torch.arange(len(boxes)),
        **({"masks": tv_tensors.Mask(drawn)} if masks else {}),
        "iscrowd": torch.tensor([number in crowd for number in range(len(boxes))]).bool(),
        "area": torch.ones(len(boxes), dtype=torch.float64),
        "image_id": 7,
        "id": "a",
    }


def bounds(mask):
    rows, columns = torch.nonzero(mask.as_subclass(torch.Tensor).any(1)), torch.nonzero(mask.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def test_short_sides_are_drawn_and_the_long_side_is_bounded():
    torch.manual_seed(0)
    resize = RandomShortSide(SHORT_SIDES, long_side=1333)
    assert {min(resize.make_params([sample()["image"]])["size"]) for _ in range(100)} == set(SHORT_SIDES)
    # 480 x 640: 800 / 480 * 640 = 1066.67; 426 x 1000: 1333 / 1000 * 426 = 567.9
    fixed = RandomShortSide((800,), long_side=1333)
    assert fixed.make_params([torch.zeros(3, 480, 640)])["size"] == (800, 1067)
    assert fixed.make_params([torch.zeros(3, 426, 1000)])["size"] == (568, 1333)
    assert fixed.make_params([torch.zeros(3, 1, 5000)])["size"] == (1, 1333)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("masks", [True, False])
def test_boxes_and_masks_follow_the_image(flip, masks):
    transform = detection_train_transform(short_sides=(80,), long_side=200, flip=flip, **RAW)
    out = transform(sample(masks=masks))
    assert out["image"].shape == (3, 80, 120)
    assert out["image"].dtype == torch.float32
    assert out["boxes"].canvas_size == (80, 120)
    expected = [[60, 10, 100, 30] if flip else [20, 10, 60, 30], [0, 40, 120, 80]]
    assert out["boxes"].tolist() == expected
    for number, (x1, y1, x2, y2) in enumerate(expected):
        assert (out["image"][:, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2] == 50 * (number + 1)).all()
    assert ("masks" in out) is masks
    if masks:
        assert out["masks"].dtype == torch.bool
        assert [bounds(mask) for mask in out["masks"]] == expected


def test_crowd_regions_are_no_targets():
    out = detection_train_transform(short_sides=(40,), long_side=60, flip=0.0)(sample(crowd=(0,)))
    assert out["labels"].tolist() == [1]
    assert out["boxes"].tolist() == [[0, 20, 60, 40]]
    assert out["masks"].shape == (1, 40, 60)
    assert out["iscrowd"].tolist() == [False]
    untouched = sample()
    assert DropCrowd()(untouched) is untouched


def test_boxes_that_become_too_small_are_dropped_with_all_that_is_theirs():
    boxes = ((10, 5, 30, 15), (3, 3, 4, 9), (0, 20, 60, 40))
    out = detection_train_transform(short_sides=(20,), long_side=60, flip=0.0)(sample(boxes=boxes))
    assert out["labels"].tolist() == [0, 2]
    assert len(out["boxes"]) == len(out["masks"]) == len(out["iscrowd"]) == len(out["area"]) == 2
    assert bounds(out["masks"][1]) == [0, 10, 30, 20]


@pytest.mark.parametrize("jitter", [None, (0.1, 2.0)])
@pytest.mark.parametrize("masks", [True, False])
def test_no_object(jitter, masks):
    transform = detection_train_transform(
        short_sides=(32,), long_side=60, jitter=jitter, jitter_size=(32, 32), photometric=True
    )
    out = transform(sample(boxes=(), masks=masks))
    assert out["boxes"].shape == (0, 4)
    assert out["labels"].shape == (0,)
    if masks:
        assert out["masks"].shape == (0, *out["image"].shape[-2:])


def test_jitter_fits_and_crops():
    torch.manual_seed(0)
    transform = detection_train_transform(jitter=(0.1, 2.0), jitter_size=(64, 48), flip=0.0, **RAW)
    sizes, counts = set(), set()
    for _ in range(60):
        out = transform(sample(boxes=((2, 2, 12, 12), (45, 28, 58, 38))))
        sizes.add(tuple(out["image"].shape[-2:]))
        counts.add(len(out["labels"]))
        assert out["masks"].shape == (len(out["labels"]), *out["image"].shape[-2:])
        for box, mask, label in zip(out["boxes"].tolist(), out["masks"], out["labels"].tolist(), strict=True):
            assert bounds(mask) == pytest.approx(box, abs=1.01)
            shown = out["image"][0][mask.as_subclass(torch.Tensor)]
            assert len(shown) < 100 or shown.median() == 50 * (label + 1)
    assert max(height for height, _ in sizes) <= 64
    assert max(width for _, width in sizes) == 48
    assert min(height for height, _ in sizes) < 12  # 48 / 60 * 40 * 0.1 = 3.2 at the least
    assert 1 in counts  # the crop has cut an object off
    # 100 x 10 into (64, 48): 0.64 at factor 1; a side is never less than one pixel
    jitter = ScaleJitter((64, 48), scale_range=(1.0, 1.0))
    assert jitter.make_params([torch.zeros(3, 100, 10)])["size"] == (64, 6)
    assert jitter.make_params([torch.zeros(3, 10, 96)])["size"] == (5, 48)
    assert ScaleJitter((64, 48), scale_range=(0.1, 0.1)).make_params([torch.zeros(3, 1, 500)])["size"] == (1, 5)


def test_photometric_distortion_is_for_the_image_alone():
    torch.manual_seed(1)
    args = {"short_sides": (40,), "long_side": 60, "flip": 0.0}
    plain = detection_train_transform(**args)(sample())
    outs = [detection_train_transform(**args, photometric=True)(sample()) for _ in range(5)]
    assert any(not torch.equal(out["image"], plain["image"]) for out in outs)
    for out in outs:
        assert torch.equal(out["boxes"], plain["boxes"])
        assert torch.equal(out["masks"], plain["masks"])


def test_the_seed_repeats_it():
    transform = detection_train_transform(jitter=(0.5, 2.0), jitter_size=(32, 32), photometric=True)
    outs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        outs.append(transform(sample()))
    assert torch.equal(outs[0]["image"], outs[1]["image"])
    assert torch.equal(outs[0]["boxes"], outs[1]["boxes"])
    assert outs[0]["image"].shape != outs[2]["image"].shape or not torch.equal(outs[0]["image"], outs[2]["image"])


def test_evaluation_keeps_the_truth_in_stored_pixels():
    item = sample(crowd=(1,))
    out = DetectionEvalTransform(short_side=80, long_side=100)(item)
    assert set(out) == {"image", "size", "truth", "image_id", "id"}
    assert out["image"].shape == (3, 67, 100)  # 100 / 60 * 40 = 66.67
    assert out["image"].dtype == torch.float32
    assert (out["size"], out["image_id"], out["id"]) == ((40, 60), 7, "a")
    assert set(out["truth"]) == {"boxes", "labels", "masks", "iscrowd", "area"}
    for key, value in out["truth"].items():
        assert torch.equal(value, item[key])
    assert "masks" not in DetectionEvalTransform()(sample(masks=False))["truth"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"short_sides": ()}, r"short_sides \(\)"),
        ({"short_sides": (800,), "long_side": 700}, "none above long_side 700"),
        ({"jitter": (2.0, 0.1)}, r"jitter \(2.0, 0.1\)"),
        ({"jitter": (0.1, 2.0), "jitter_size": (0, 5)}, r"jitter_size \(0, 5\)"),
    ],
)
def test_bad_numbers_are_refused(args, message):
    with pytest.raises(UserError, match=message):
        detection_train_transform(**args)
