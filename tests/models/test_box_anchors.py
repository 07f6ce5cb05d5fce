"""Anchors by hand: sides, places, levels; and float32 whatever the maps are."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from densevit.models.box_anchors import PyramidAnchors


def maps(sizes, dtype=torch.float32):
    return [torch.zeros(1, 2, height, width, dtype=dtype) for height, width in sizes]


def test_sides_and_places():
    anchors = PyramidAnchors(strides=(8, 16), scales=(4, 4 * 2 ** (1 / 3)), ratios=(0.5, 1.0))
    images = ImageList(torch.zeros(2, 3, 16, 32), [(16, 32), (12, 30)])
    first, second = anchors(images, maps([(2, 4), (1, 2)]))
    assert torch.equal(first, second)
    assert first.shape == (4 * (8 + 2), 4)
    assert anchors.num_anchors_per_location() == [4, 4]
    centres, sides = (first[:, :2] + first[:, 2:]) / 2, first[:, 2:] - first[:, :2]
    torch.testing.assert_close(centres[::4][:3], torch.tensor([[0.0, 0], [8, 0], [16, 0]]))
    torch.testing.assert_close(centres[-1], torch.tensor([16.0, 0]))
    areas = torch.tensor([32.0**2, (32 * 2 ** (1 / 3)) ** 2])
    torch.testing.assert_close(sides[:4].prod(dim=1), areas.repeat(2))
    torch.testing.assert_close(sides[:4, 1] / sides[:4, 0], torch.tensor([0.5, 0.5, 1, 1]))  # height / width
    torch.testing.assert_close(sides[-4:], 2 * sides[:4])


def test_those_of_torchvision_where_sides_are_whole():
    ours = PyramidAnchors(strides=(4, 8), scales=(8,), ratios=(1.0,))
    theirs = AnchorGenerator(((32,), (64,)), ((1.0,),) * 2)
    images = ImageList(torch.zeros(1, 3, 32, 64), [(32, 64)])
    features = maps([(8, 16), (4, 8)])
    torch.testing.assert_close(ours(images, features)[0], theirs(images, features)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cells_of_coarse_levels_stay_their_stride_apart(dtype):
    anchors = PyramidAnchors(strides=(64,), scales=(1,), ratios=(1.0,))
    found = anchors(ImageList(torch.zeros(1, 3, 800, 96), [(800, 96)]), maps([(13, 2)], dtype))[0]
    assert found.dtype == torch.float32
    assert found[-1].tolist() == [32, 736, 96, 800]  # torchvision: 800 // 13 = 61 apart
