"""Samples are checked before a model sees them; the error names the mask, the value and the fix."""

import numpy as np
import pytest
import torch

from densevit.data.base import check_sample, ids_outside, pair_files
from densevit.errors import UserError


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_ids_outside(dtype):
    ids = np.array([[0, 149, 255], [150, 200, 3]], dtype=dtype)
    assert ids_outside(ids, num_classes=150, ignore_index=255) == [150, 200]
    assert ids_outside(ids, num_classes=201, ignore_index=255) == []
    assert ids_outside(ids[:1], num_classes=150, ignore_index=254) == [255]


def test_label_200_of_150_classes():
    ids = np.zeros((4, 6), dtype=np.uint8)
    ids[1, 2] = 200
    with pytest.raises(UserError) as error:
        check_sample(torch.zeros(3, 4, 6), ids, num_classes=150, ignore_index=255, name="X.png")
    assert str(error.value) == (
        "mask X.png has label 200 but there are 150 classes (0..149, 255 = ignore); "
        "correct the mask, or list the missing classes"
    )


def test_background_hint_and_wide_ids():
    image = torch.zeros(3, 1, 3)
    with pytest.raises(UserError, match=r"label 5 but .*reduce_zero_label"):
        check_sample(image, np.array([[0, 5, 1]], dtype=np.uint8), num_classes=5, ignore_index=255, name="m")
    with pytest.raises(UserError, match=r"labels -1, 300 but"):
        check_sample(image, np.array([[-1, 300, 1]], dtype=np.int32), num_classes=5, ignore_index=255, name="m")


def test_mask_of_another_size():
    image = torch.zeros(3, 4, 6)
    with pytest.raises(UserError, match="mask m is 5x4 but its image is 6x4; export the mask"):
        check_sample(image, np.zeros((4, 5), dtype=np.uint8), num_classes=5, ignore_index=255, name="m")
    with pytest.raises(UserError, match="EXIF rotation"):
        check_sample(image, np.zeros((6, 4), dtype=np.uint8), num_classes=5, ignore_index=255, name="m")


def test_pair_files(tmp_path):
    images = [(name, tmp_path / f"{name}.jpg") for name in ("b", "a", "c")]
    masks = [(name, tmp_path / f"{name}.png") for name in ("a", "b", "d")]
    pairs, no_mask, no_image = pair_files(images, masks)
    assert [(pair.id, pair.image.name, pair.mask.name) for pair in pairs] == [
        ("a", "a.jpg", "a.png"),
        ("b", "b.jpg", "b.png"),
    ]
    assert [path.name for path in no_mask] == ["c.jpg"]
    assert [path.name for path in no_image] == ["d.png"]
