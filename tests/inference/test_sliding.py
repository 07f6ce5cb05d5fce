"""Sliding windows: the grid of the protocol, invariants, and equality with a slow, obvious reference."""

import pytest
import torch
import torch.nn.functional as F

from densevit.errors import UserError
from densevit.inference.sliding import slide, window_starts


def reference(forward, image, *, num_classes, crop_size, stride):
    """Each window padded to the whole image, all of them added, divided by the padded ones."""
    (h, w), (B, _, H, W) = crop_size, image.shape
    rows = max(H - h + stride[0] - 1, 0) // stride[0] + 1
    columns = max(W - w + stride[1] - 1, 0) // stride[1] + 1
    total, count = torch.zeros(B, num_classes, H, W), torch.zeros(1, 1, H, W)
    for row in range(rows):
        for column in range(columns):
            bottom, right = min(row * stride[0] + h, H), min(column * stride[1] + w, W)
            top, left = bottom - h, right - w
            pad = (left, W - right, top, H - bottom)
            total = total + F.pad(forward(image[:, :, top:bottom, left:right]), pad)
            count = count + F.pad(torch.ones(1, 1, h, w), pad)
    return total / count


def toy_forward(num_classes, channels=3):
    """Position-dependent inside the window, so that the place of every window matters."""
    torch.manual_seed(0)
    weight = torch.randn(num_classes, channels, 3, 3)
    return lambda x: F.conv2d(x, weight, padding=1)


@pytest.mark.parametrize(
    ("size", "window", "stride", "expected"),
    [
        (1025, 768, 512, [0, 257]),
        (2049, 768, 512, [0, 512, 1024, 1281]),
        (512, 512, 341, [0]),
        (683, 512, 341, [0, 171]),
        (853, 512, 341, [0, 341]),  # fits exactly
        (100, 512, 341, [0]),
    ],
)
def test_window_starts(size, window, stride, expected):
    assert window_starts(size, window=window, stride=stride) == expected


def test_cityscapes_takes_eight_windows():
    rows = window_starts(1025, window=768, stride=512)
    assert len(rows) * len(window_starts(2049, window=768, stride=512)) == 8


@pytest.mark.parametrize("window_batch", [1, 3, 100])
@pytest.mark.parametrize(
    ("image_size", "crop_size", "stride"),
    [((37, 61), (16, 16), (11, 11)), ((40, 29), (24, 16), (16, 7)), ((16, 33), (16, 16), (16, 16))],
)
def test_equals_the_reference(image_size, crop_size, stride, window_batch):
    forward = toy_forward(5)
    image = torch.randn(2, 3, *image_size)
    options = {"num_classes": 5, "crop_size": crop_size, "stride": stride}
    logits = slide(forward, image, window_batch=window_batch, **options)
    assert logits.shape == (2, 5, *image_size)
    torch.testing.assert_close(logits, reference(forward, image, **options))


def test_windows_of_a_pointwise_network_give_the_whole_image():
    image = torch.randn(1, 4, 50, 71)
    weight = torch.randn(3, 4, 1, 1)
    logits = slide(lambda x: F.conv2d(x, weight), image, num_classes=3, crop_size=(20, 24), stride=(13, 16))
    torch.testing.assert_close(logits, F.conv2d(image, weight))


@pytest.mark.parametrize("image_size", [(10, 60), (60, 10), (10, 15), (31, 32)])
def test_small_images_are_enlarged_to_the_window_and_brought_back(image_size):
    seen = []

    def forward(x):
        seen.append(tuple(x.shape[-2:]))
        return x[:, :2]

    ramp = torch.linspace(0, 1, image_size[1]).expand(1, 3, *image_size).clone()
    logits = slide(forward, ramp, num_classes=2, crop_size=(32, 32), stride=(20, 20))
    assert set(seen) == {(32, 32)}
    assert logits.shape == (1, 2, *image_size)
    # A linear ramp survives two bilinear resizings but for the half pixels at its ends.
    torch.testing.assert_close(logits[..., 1:-1], ramp[:, :2, :, 1:-1], atol=0.02, rtol=0)


def test_batches_windows_and_leaves_the_image_alone():
    image = torch.randn(2, 3, 32, 48)
    before, sizes = image.clone(), []

    def forward(x):
        sizes.append(len(x))
        return x.clone().mul_(2)

    slide(forward, image, num_classes=3, crop_size=(16, 16), stride=(16, 16), window_batch=5)
    assert sizes == [5, 5, 2]  # 2 images x 2 x 3 windows
    assert torch.equal(image, before)


def test_sums_in_float32_whatever_the_network_returns():
    image = torch.rand(1, 1, 16, 32)
    logits = slide(lambda x: x.bfloat16(), image, num_classes=1, crop_size=(16, 16), stride=(8, 8))
    assert logits.dtype == torch.float32
    assert torch.equal(logits, image.bfloat16().float())


def test_keeps_no_gradients():
    weight = torch.ones(1, 1, 1, 1, requires_grad=True)
    logits = slide(
        lambda x: F.conv2d(x, weight), torch.ones(1, 1, 9, 9), num_classes=1, crop_size=(8, 8), stride=(8, 8)
    )
    assert not logits.requires_grad


@pytest.mark.parametrize("stride", [(0, 8), (17, 8), (8, -1)])
def test_stride_with_gaps_is_refused(stride):
    with pytest.raises(UserError, match="stride"):
        slide(lambda x: x, torch.ones(1, 1, 32, 32), num_classes=1, crop_size=(16, 16), stride=stride)


def test_other_class_count_or_size_is_refused():
    with pytest.raises(UserError, match=r"\(1, 3, 16, 16\) gave logits \(1, 3, 16, 16\)"):
        slide(lambda x: x, torch.ones(1, 3, 32, 32), num_classes=4, crop_size=(16, 16), stride=(16, 16))
    with pytest.raises(UserError, match="at the window's size"):
        slide(lambda x: x[..., ::4], torch.ones(1, 3, 32, 32), num_classes=3, crop_size=(16, 16), stride=(16, 16))
