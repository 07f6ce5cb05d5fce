"""Photometric distortion against numbers worked out by hand and against a slow, obvious version."""

import colorsys

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from densevit.data.photometric import PhotoMetricDistortion, distort
from densevit.errors import UserError


def sample(height=40, width=60):
    torch.manual_seed(0)
    image, mask = torch.randint(0, 256, (3, height, width)), torch.randint(0, 4, (height, width))
    return {"image": tv_tensors.Image(image.byte()), "mask": tv_tensors.Mask(mask.byte())}


def slow_distortion(pixel, *, brightness, contrast, contrast_first, saturation, hue):
    """One pixel in plain Python: real-valued HSV, cut to 0..255 at each step."""

    def cut(values):
        return [min(max(v, 0.0), 255.0) for v in values]

    pixel = cut(v + brightness for v in pixel)
    if contrast_first:
        pixel = cut(v * contrast for v in pixel)
    h, s, v = colorsys.rgb_to_hsv(*(v / 255 for v in pixel))
    pixel = [255 * c for c in colorsys.hsv_to_rgb((h + hue / 180) % 1, min(s * saturation, 1), v)]
    return pixel if contrast_first else cut(v * contrast for v in pixel)


@pytest.mark.parametrize("contrast_first", [True, False])
@pytest.mark.parametrize("amounts", [(20.0, 1.4, 0.6, 17), (-30.0, 0.55, 1.45, -18), (0.0, 1.0, 1.0, 9)])
def test_distortion_against_one_pixel_at_a_time(amounts, contrast_first):
    brightness, contrast, saturation, hue = amounts
    image = sample(7, 11)["image"]
    args = {
        "brightness": brightness,
        "contrast": contrast,
        "contrast_first": contrast_first,
        "saturation": saturation,
        "hue": hue,
    }
    out = distort(image, **args).permute(1, 2, 0).reshape(-1, 3).numpy().astype(float)
    expected = np.array([slow_distortion(p, **args) for p in image.permute(1, 2, 0).reshape(-1, 3).tolist()])
    error = np.abs(out - expected)
    assert error.mean() < 3  # 8-bit HSV costs a few grey levels in strong colours, as it does in the original
    assert error.max() < 16


def test_brightness_and_contrast_are_exact():
    image = torch.tensor([0, 1, 100, 200, 250, 255], dtype=torch.uint8).expand(3, 1, 6)
    # + 10.7, fraction dropped: 10, 11, 110, 210, cut, cut
    assert distort(image, brightness=10.7)[0, 0].tolist() == [10, 11, 110, 210, 255, 255]
    assert distort(image, brightness=-10.7)[0, 0].tolist() == [0, 0, 89, 189, 239, 244]
    assert distort(image, contrast=0.5)[0, 0].tolist() == [0, 0, 50, 100, 125, 127]
    first = distort(image, brightness=10.0, contrast=1.5, contrast_first=True)
    assert first[0, 0].tolist() == [15, 16, 165, 255, 255, 255]
    assert distort(image) is image


def test_hue_and_saturation_of_known_colors():
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).reshape(3, 1, 1)
    assert distort(red, hue=60)[:, 0, 0].tolist() == pytest.approx([0, 200, 0], abs=3)  # 120 degrees
    assert distort(red, hue=90)[:, 0, 0].tolist() == pytest.approx([0, 200, 200], abs=3)
    assert distort(red, saturation=0.5)[:, 0, 0].tolist() == pytest.approx([200, 100, 100], abs=2)
    grey = torch.full((3, 2, 3), 77, dtype=torch.uint8)
    assert torch.equal(distort(grey, hue=17, saturation=1.5), grey)


def test_distortion_amounts_and_chances():
    torch.manual_seed(0)
    drawn = [PhotoMetricDistortion().make_params([]) for _ in range(2000)]
    for key, low, high in (("brightness", -32, 32), ("contrast", 0.5, 1.5), ("saturation", 0.5, 1.5), ("hue", -18, 17)):
        values = [d[key] for d in drawn if d[key] is not None]
        assert len(values) / len(drawn) == pytest.approx(0.5, abs=0.04)
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high
    assert sum(d["contrast_first"] for d in drawn) / len(drawn) == pytest.approx(0.5, abs=0.04)


def test_distortion_leaves_the_mask_alone_and_refuses_bands():
    item = sample()
    out = PhotoMetricDistortion(p=1.0)(item)
    assert torch.equal(out["mask"], item["mask"])
    assert not torch.equal(out["image"], item["image"])
    with pytest.raises(UserError, match="photometric=False"):
        distort(torch.zeros(5, 4, 4))
