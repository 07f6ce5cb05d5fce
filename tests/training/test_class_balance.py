"""Class weights from masks, by hand."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from densevit.data.base import SegmentationDataset
from densevit.errors import UserError
from densevit.training.class_balance import balanced_weights, class_pixels, class_weights
from densevit.training.config import LossConfig


class Masks(SegmentationDataset):
    def __init__(self, masks):
        self.masks = [np.array(mask, dtype=np.uint8) for mask in masks]
        names = ("a", "b", "c", "d")
        super().__init__([str(i) for i in range(len(masks))], classes=names, palette=((0, 0, 0),) * 4, transform=None)

    def read(self, index):
        mask = self.masks[index]
        return tv_tensors.Image(torch.zeros(3, *mask.shape, dtype=torch.uint8)), mask


MASKS = Masks([[[0, 0, 0, 255]], [[1, 0, 3, 3]]])


def test_pixels_are_counted_without_ignored_ones():
    assert class_pixels(MASKS).tolist() == [4, 1, 0, 2]


def test_median_frequency():
    assert balanced_weights(MASKS) == (0.5, 2.0, 1.0, 1.0)  # the median of 4, 1 and 2 is 2; class c is never seen


def test_what_the_setting_means():
    assert class_weights(LossConfig(), MASKS) is None
    assert class_weights(LossConfig(class_weights="balanced"), MASKS) == (0.5, 2.0, 1.0, 1.0)
    assert class_weights(LossConfig(class_weights=(1.0, 2.0, 3.0, 4.0)), MASKS) == (1.0, 2.0, 3.0, 4.0)
    with pytest.raises(UserError, match="has 2 numbers, but the data set has 4 classes"):
        class_weights(LossConfig(class_weights=(1.0, 2.0)), MASKS)
