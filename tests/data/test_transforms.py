"""The augmentation against numbers worked out by hand and against slow, obvious versions."""

import pytest
import torch
from torchvision import tv_tensors

from densevit.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalize,
    PadTo,
    RandomCrop,
    RandomResize,
    eval_transform,
    fitted_size,
    train_transform,
)
from densevit.errors import UserError


def sample(height=40, width=60, num_classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    mask = torch.randint(0, num_classes, (height, width), dtype=torch.uint8, generator=generator)
    return {"image": tv_tensors.Image(image), "mask": tv_tensors.Mask(mask), "id": "a"}


@pytest.mark.parametrize(
    ("image_size", "scale", "expected"),
    [
        ((1024, 2048), (2049, 1025), (1025, 2049)),  # Cityscapes, whole image
        ((512, 683), (2048, 512), (512, 683)),  # ADE20K, short side decides
        ((300, 1500), (2048, 512), (410, 2048)),  # ADE20K, long side decides: 300 * 2048 / 1500 = 409.6
        ((375, 500), (520, 520), (390, 520)),  # Pascal Context: 375 * 520 / 500 = 390
        ((500, 375), (520, 520), (520, 390)),
    ],
)
def test_fitted_size(image_size, scale, expected):
    assert fitted_size(image_size, scale) == expected


def test_ratio_cuts_both_sides_of_the_base_before_fitting():
    resize = RandomResize(base=(2049, 1025))
    # 0.7: int(1434.3) = 1434, int(717.5) = 717; factor = min(1434 / 2048, 717 / 1024) = 0.700195...
    assert resize.size_for((1024, 2048), 0.7) == (717, 1434)
    # 0.5: (1024, 512) fits exactly
    assert resize.size_for((1024, 2048), 0.5) == (512, 1024)
    # without a base, the image's own size: (60, 41) x 1.5 = (90, 61); 60 * 61 / 41 = 89.27
    assert RandomResize().size_for((41, 60), 1.5) == (61, 89)


def test_ratios_cover_their_range():
    resize = RandomResize(base=(600, 400), ratio_range=(0.5, 2.0))
    torch.manual_seed(0)
    widths = [resize.make_params(list(sample(40, 60).values()))["size"][1] for _ in range(200)]
    assert 300 <= min(widths) < 330
    assert 1150 < max(widths) <= 1200


def test_resize_keeps_ids_and_registers_image_and_mask():
    item = sample()
    item["mask"][:] = 0
    item["mask"][:, 30:] = 3
    item["image"].copy_((item["mask"] * 40).as_subclass(torch.Tensor))
    out = RandomResize(base=(120, 80), ratio_range=(1, 1))(item)
    assert out["image"].shape == (3, 80, 120)
    assert set(out["mask"].unique().tolist()) == {0, 3}
    assert (out["mask"][:, 60:] == 3).all()
    assert (out["mask"][:, :60] == 0).all()
    # bilinear without smoothing, twice as wide: two columns blend on the edge, a quarter and three quarters
    assert out["image"][0, 0, 58:62].tolist() == [0, 30, 90, 120]


def test_crop_takes_image_and_mask_from_the_same_place():
    item = sample(50, 70, num_classes=200)
    item["image"][0].copy_(item["mask"].as_subclass(torch.Tensor))
    for _ in range(20):
        out = RandomCrop((32, 24))(item)
        assert out["image"].shape == (3, 32, 24)
        assert torch.equal(out["image"][0].as_subclass(torch.Tensor), out["mask"].as_subclass(torch.Tensor))


def test_crop_reaches_every_corner():
    torch.manual_seed(0)
    crop = RandomCrop((3, 4), cat_max_ratio=1.0)
    places = {(p["top"], p["left"]) for p in (crop.make_params([sample(5, 6)["image"]]) for _ in range(300))}
    assert places == {(top, left) for top in range(3) for left in range(3)}


@pytest.mark.parametrize(
    ("ids", "accepted"),
    [
        ([0] * 74 + [1] * 26, True),  # 0.74 < 0.75
        ([0] * 75 + [1] * 25, False),  # 0.75 is too much
        ([0] * 100, False),  # one class only
        ([0] * 3 + [1] * 2 + [255] * 95, True),  # ignored pixels do not count: 3 of 5
        ([255] * 100, False),
    ],
)
def test_cat_max_ratio(ids, accepted):
    mask = torch.tensor(ids, dtype=torch.uint8).reshape(10, 10)
    assert RandomCrop((10, 10)).accepts(mask) is accepted


def test_crop_is_drawn_at_most_ten_times(monkeypatch):
    crop = RandomCrop((8, 8))
    calls = []
    monkeypatch.setattr(crop, "accepts", lambda mask: calls.append(mask.shape) or len(calls) == 4)
    crop(sample())
    assert calls == [(8, 8)] * 4
    calls.clear()
    monkeypatch.setattr(crop, "accepts", lambda mask: calls.append(mask.shape) or False)
    crop(sample())
    assert len(calls) == 10


def test_crop_prefers_mixed_places():
    item = sample(40, 400)
    item["mask"][:] = 0
    item["mask"][:, 200:220] = 1  # 39 of the 361 places are mixed enough
    torch.manual_seed(0)
    crop = RandomCrop((40, 40))
    mixed = sum(crop.accepts(crop(item)["mask"]) for _ in range(50))
    assert mixed > 25  # 1 - (322 / 361)^10 = 68 % of 50; without drawing again it would be about 5


def test_normalize_by_hand():
    item = sample(4, 6)
    item["image"][:, 0, 0] = torch.tensor([0, 255, 104], dtype=torch.uint8)
    out = Normalize()(item)
    expected = [(0 - 123.675) / 58.395, (255 - 116.28) / 57.12, (104 - 103.53) / 57.375]
    torch.testing.assert_close(out["image"][:, 0, 0].as_subclass(torch.Tensor), torch.tensor(expected))
    assert out["mask"].dtype == torch.int64
    assert (IMAGENET_MEAN, IMAGENET_STD) == ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    with pytest.raises(UserError, match="multiply mean and std by 255"):
        Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))(item)


def test_pad_goes_right_and_below():
    out = PadTo((10, 9))(Normalize()(sample(7, 5)))
    assert out["image"].shape == (3, 10, 9)
    assert (out["image"][:, 7:] == 0).all()
    assert (out["image"][:, :, 5:] == 0).all()
    assert (out["mask"][7:] == 255).all()
    assert (out["mask"][:, 5:] == 255).all()
    assert (out["mask"][:7, :5] < 4).all()


@pytest.mark.parametrize("photometric", [True, False])
@pytest.mark.parametrize("crop_size", [(32, 48), (96, 64)])
def test_train_transform_gives_the_crop_size(crop_size, photometric):
    transform = train_transform(crop_size=crop_size, resize_base=(60, 40), photometric=photometric)
    for seed in range(6):
        out = transform(sample(seed=seed))
        assert out["image"].shape == (3, *crop_size)
        assert out["mask"].shape == crop_size
        assert out["image"].dtype == torch.float32
        assert out["mask"].dtype == torch.int64
        assert out["id"] == "a"


def test_train_transform_repeats_with_the_seed():
    transform = train_transform(crop_size=(32, 48))
    torch.manual_seed(3)
    first = transform(sample())
    torch.manual_seed(3)
    again = transform(sample())
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["mask"], again["mask"])
    assert not torch.equal(transform(sample())["image"], first["image"])


def test_flip_probability():
    item = sample(8, 12)
    args = {"crop_size": (8, 12), "ratio_range": (1.0, 1.0), "photometric": False}
    flipped = train_transform(flip=1.0, **args)(item)
    straight = train_transform(flip=0.0, **args)(item)
    assert torch.equal(flipped["image"].flip(-1), straight["image"])
    assert torch.equal(flipped["mask"].flip(-1), straight["mask"])


def test_eval_transform_resizes_the_image_alone():
    out = eval_transform(resize=(120, 80))(sample(40, 60))
    assert out["image"].shape == (3, 80, 120)
    assert out["mask"].shape == (40, 60)
    assert eval_transform()(sample(41, 63))["image"].shape == (3, 41, 63)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: train_transform(crop_size=(0, 8)), r"crop_size \(0, 8\)"),
        (lambda: train_transform(crop_size=(8, 8), ratio_range=(2, 0.5)), "ratio_range"),
        (lambda: train_transform(crop_size=(8, 8), cat_max_ratio=1.5), "cat_max_ratio 1.5"),
        (lambda: train_transform(crop_size=(8, 8), std=(1, 0, 1)), "std above 0"),
        (lambda: eval_transform(resize=(0, 5)), "resize"),
    ],
)
def test_bad_numbers_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()
