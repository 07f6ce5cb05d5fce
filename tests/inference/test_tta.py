"""Multi-scale and mirror testing: the protocol's sizes, and equality with a slow, obvious reference."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from densevit.errors import UserError
from densevit.inference.sliding import slide
from densevit.inference.tta import PAPER_RATIOS, multi_scale_probabilities, multi_scale_sizes


@pytest.mark.parametrize(
    ("base", "crop", "short_sides"),
    [
        ((1025, 2049), 768, [768, 768, 1025, 1281, 1537, 1793]),  # Cityscapes
        ((512, 2048), 512, [512, 512, 512, 640, 768, 896]),  # ADE20K
        ((520, 520), 480, [480, 480, 520, 650, 780, 910]),  # Pascal Context
    ],
)
@pytest.mark.parametrize("image_size", [(1024, 2048), (500, 375), (333, 500)])
def test_short_sides_of_the_protocol(base, crop, short_sides, image_size):
    sizes = multi_scale_sizes(image_size, base=base, ratios=PAPER_RATIOS, crop_size=(crop, crop))
    assert [min(size) for size in sizes] == short_sides
    for height, width in sizes:
        long = max(image_size) * min(height, width) / min(image_size)
        assert max(height, width) == int(long + 0.5)  # no limit on the long side
        assert (height < width) == (image_size[0] < image_size[1])
    swapped = multi_scale_sizes(image_size, base=base[::-1], ratios=PAPER_RATIOS, crop_size=(crop, crop))
    assert swapped == sizes


def test_without_a_window_small_scales_stay_small():
    assert multi_scale_sizes((100, 200), base=(64, 64), ratios=(0.5, 1.0)) == [(32, 64), (64, 128)]


def reference(forward, image, sizes, flip):
    maps = []
    for size in sizes:
        resized = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        for mirrored in [False, True] if flip else [False]:
            logits = forward(resized.flip(3) if mirrored else resized)
            logits = F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)
            probs = logits.softmax(dim=1)
            maps.append(probs.flip(3) if mirrored else probs)
    return torch.stack(maps).mean(dim=0)


@pytest.mark.parametrize("flip", [False, True])
def test_equals_the_reference_with_sliding_windows(flip):
    torch.manual_seed(1)
    weight = torch.randn(4, 3, 3, 3)
    calls = []

    def network(x):
        calls.append(len(x))
        return F.conv2d(x, weight, padding=1)

    forward = partial(slide, network, num_classes=4, crop_size=(24, 24), stride=(16, 16))
    image = torch.randn(2, 3, 30, 47)
    sizes = multi_scale_sizes((30, 47), base=(24, 96), ratios=PAPER_RATIOS, crop_size=(24, 24))
    assert sizes[:3] == [(24, 38)] * 3  # like ADE20K: the three smallest are one and the same
    expected = reference(forward, image, sizes, flip)
    reference_windows = sum(calls)
    calls.clear()
    probs = multi_scale_probabilities(forward, image, sizes=sizes, flip=flip)
    torch.testing.assert_close(probs, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(2, 30, 47))
    assert sum(calls) < reference_windows  # the repeated size was computed once


def test_repeated_sizes_weigh_more():
    def forward(x):  # confident in class 0 at height 8, in class 1 elsewhere
        logits = torch.zeros(len(x), 2, *x.shape[-2:])
        logits[:, 0 if x.shape[-2] == 8 else 1] = 50.0
        return logits

    image = torch.zeros(1, 3, 8, 12)
    probs = multi_scale_probabilities(forward, image, sizes=[(8, 12), (8, 12), (8, 12), (16, 24)], flip=False)
    torch.testing.assert_close(probs[0, :, 3, 5], torch.tensor([0.75, 0.25]))


def test_the_mirror_is_undone():
    ramp = torch.linspace(-3, 3, 20).expand(1, 1, 6, 20)
    probs = multi_scale_probabilities(lambda x: torch.cat([x, -x], dim=1), ramp, sizes=[(6, 20)], flip=True)
    torch.testing.assert_close(probs[:, 0], torch.sigmoid(2 * ramp[:, 0]))


def test_half_precision_logits_give_float32_probabilities():
    probs = multi_scale_probabilities(lambda x: x.bfloat16(), torch.rand(1, 3, 5, 9), sizes=[(5, 9), (10, 18)])
    assert probs.dtype == torch.float32


def test_unusable_scales_are_refused():
    with pytest.raises(UserError, match="ratios"):
        multi_scale_sizes((8, 8), base=(8, 8), ratios=())
    with pytest.raises(UserError, match=r"-0\.5"):
        multi_scale_sizes((8, 8), base=(8, 8), ratios=(1.0, -0.5))
    with pytest.raises(UserError, match="no sizes"):
        multi_scale_probabilities(lambda x: x, torch.rand(1, 3, 5, 9), sizes=[])
