"""Pictures in a program's hands: every type and range ends on one scale, and what cannot is named."""

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.errors import UserError
from densevit.picture_input import display_picture, to_tensor

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
EXPECTED = torch.from_numpy(RGB).permute(2, 0, 1)


@pytest.mark.parametrize(
    "picture",
    [RGB, Image.fromarray(RGB), EXPECTED, RGB[:, ::-1][:, ::-1], np.dstack([RGB, RGB[..., 0]])],
    ids=["array", "pil", "tensor", "strided array", "rgba array"],
)
def test_bytes_are_taken_as_they_are(picture):
    pixels = to_tensor(picture, channels=3)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, EXPECTED)


@pytest.mark.parametrize(
    "picture",
    [RGB / 255, (RGB / 255).astype(np.float32), EXPECTED.double() / 255, RGB.astype(np.uint16) * 257],
    ids=["float64 array", "float32 array", "float tensor", "uint16 array"],
)
def test_other_ranges_are_brought_to_bytes(picture):
    torch.testing.assert_close(to_tensor(picture, channels=3), EXPECTED.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "picture",
    [RGB[..., 0], RGB[..., :1], Image.fromarray(RGB[..., 0]), EXPECTED[:1], EXPECTED[0]],
    ids=["(H, W)", "(H, W, 1)", "pil", "(1, H, W)", "tensor (H, W)"],
)
def test_grey_is_repeated(picture):
    assert torch.equal(to_tensor(picture, channels=3), EXPECTED[:1].expand(3, -1, -1))


def test_sixteen_bit_pil():
    grey = np.array([[0, 257, 65535]], dtype=np.uint16)
    assert to_tensor(Image.fromarray(grey), channels=3)[0].tolist() == [[0, 1, 255]]


def test_exif_orientation_of_pil_images():
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = 6  # taken with the camera on its side
    assert to_tensor(image, channels=3).shape == (3, 3, 2)


@pytest.mark.parametrize("mode", ["P", "LA", "1", "RGBA"])
def test_other_pil_modes(mode):
    image = Image.fromarray(RGB[..., 0]).convert(mode)
    assert to_tensor(image, channels=3).shape == (3, 2, 3)


def test_bands_keep_their_scale():
    bands = np.random.default_rng(0).normal(1000, 50, (4, 5, 7))
    pixels = to_tensor(bands, channels=7)
    torch.testing.assert_close(pixels, torch.from_numpy(bands).permute(2, 0, 1).float())
    assert display_picture(pixels).shape == (4, 5, 3)
    assert display_picture(pixels).max() == 255


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (RGB.astype(np.float32), r"values 0 \.\. 17; scale it to 0 \.\. 1"),
        (np.full((2, 3, 3), np.nan), "nan"),
        (RGB.astype(np.int64) * 10_000, r"0 \.\. 65535"),
        (RGB.astype(np.int32) - 5, "-5"),
        (
            np.zeros((3, 4, 5), dtype=np.uint8),
            r"\(3, 4, 5\) does not fit a model of 3 channels; give it as \(H, W, C\)",
        ),
        (RGB[None], r"shape \(1, 2, 3, 3\)"),
        (np.zeros((4, 5, 7)), "7.* does not fit a model of 3 channels"),
        (np.zeros((0, 5, 3)), "cannot be used"),
        (RGB > 3, "bool"),
        ("x", "not str"),
    ],
)
def test_what_cannot_be_a_picture_is_named(picture, message):
    with pytest.raises(UserError, match=message):
        to_tensor(picture, channels=3)


def test_display_of_grey():
    shown = display_picture(torch.tensor([[[0, 200]]], dtype=torch.uint8))
    assert shown.tolist() == [[[0, 0, 0], [200, 200, 200]]]
