"""Test sizes of the protocol, hand-worked, and their rounding against the formula in floating point."""

import random

import pytest
import torch

from densevit.errors import UserError
from densevit.inference.resize import covering_size, keep_ratio_size, resize_bilinear, short_side_size


@pytest.mark.parametrize(
    ("image_size", "long", "short", "expected"),
    [
        ((1024, 2048), 2049, 1025, (1025, 2049)),  # Cityscapes, single scale
        ((512, 683), 2048, 512, (512, 683)),  # ADE20K: short side 512
        ((300, 400), 2048, 512, (512, 683)),
        ((200, 1000), 2048, 512, (410, 2048)),  # long side would be 2560, over 2048
        ((1000, 200), 2048, 512, (2048, 410)),
    ],
)
def test_keep_ratio_size(image_size, long, short, expected):
    assert keep_ratio_size(image_size, long=long, short=short) == expected


def test_keep_ratio_size_agrees_with_the_formula_in_floats():
    rng = random.Random(0)
    for _ in range(500):
        height, width = rng.randint(30, 3000), rng.randint(30, 3000)
        long, short = rng.randint(400, 2500), rng.randint(200, 1200)
        factor = min(long / max(height, width), short / min(height, width))
        if abs((height * factor + 0.5) % 1) < 1e-6 or abs((width * factor + 0.5) % 1) < 1e-6:
            continue  # exactly half: floats may fall either way, integers do not
        expected = (int(height * factor + 0.5), int(width * factor + 0.5))
        assert keep_ratio_size((height, width), long=long, short=short) == expected


def test_short_side_size():
    assert short_side_size((375, 500), short=520) == (520, 693)  # 693.33
    assert short_side_size((500, 375), short=520) == (693, 520)
    assert short_side_size((2, 3), short=1) == (1, 2)  # 1.5 rounds up


def test_covering_size():
    assert covering_size((480, 640), window=(480, 480)) == (480, 640)
    assert covering_size((240, 640), window=(480, 480)) == (480, 1280)
    assert covering_size((640, 100), window=(480, 480)) == (3072, 480)
    assert covering_size((300, 300), window=(256, 512)) == (512, 512)  # only the width was too small
    for size in [(7, 13), (13, 7), (33, 47), (1, 1)]:
        height, width = covering_size(size, window=(48, 64))
        assert height >= 48
        assert width >= 64
        assert height == 48 or width == 64


def test_resize_returns_the_same_tensor_at_the_same_size():
    maps = torch.rand(1, 2, 5, 7)
    assert resize_bilinear(maps, size=(5, 7)) is maps
    assert resize_bilinear(maps, size=(10, 7)).shape == (1, 2, 10, 7)


def test_empty_image_is_refused():
    with pytest.raises(UserError, match="0 x 5"):
        short_side_size((0, 5), short=3)
