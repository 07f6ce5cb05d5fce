"""Regions: which level they are read from, and where."""

import torch

from densevit.models.pyramid_roi_align import PyramidRoIAlign


def ramps(height, width, strides):
    """Maps whose two channels hold the y and x, in pixels, of the middle of each cell."""
    maps = []
    for stride in strides:
        y = (torch.arange(height // stride) + 0.5) * stride
        x = (torch.arange(width // stride) + 0.5) * stride
        maps.append(torch.stack(torch.meshgrid(y, x, indexing="ij"))[None])
    return maps


def test_a_region_reads_the_places_it_covers():
    pool = PyramidRoIAlign(2, strides=(4, 8))
    boxes = torch.tensor([[16.0, 8, 48, 40], [32, 40, 96, 72]])
    found = pool(ramps(96, 128, (4, 8)), [boxes])
    assert found.shape == (2, 2, 2, 2)
    torch.testing.assert_close(found[0], torch.tensor([[[16.0, 16], [32, 32]], [[24, 40], [24, 40]]]))
    torch.testing.assert_close(found[1], torch.tensor([[[48.0, 48], [64, 64]], [[48, 80], [48, 80]]]))


def test_levels_by_size_and_images_by_place():
    strides = (4, 8, 16, 32)
    maps = [torch.full((2, 1, 16, 16), float(stride)) for stride in strides]
    for x in maps:
        x[1] += 0.5
    sides = torch.tensor([20.0, 111, 113, 223, 225, 449, 5000])
    boxes = torch.cat([torch.zeros(7, 2), sides[:, None].expand(7, 2)], dim=1)
    inside = boxes.clamp(max=8)  # where the maps have values; the level is that of the whole box
    pool = PyramidRoIAlign(1, strides=strides)
    levels = pool.level_of([boxes])
    assert levels.tolist() == [0, 0, 1, 1, 2, 3, 3]
    found = pool([*maps, torch.zeros(2, 1, 8, 8)], [inside[:1], inside[:0], inside[:1]][:2])
    assert found.flatten().tolist() == [4.0]
    found = pool(maps, [inside[:0], inside[:2]])
    assert found.flatten().tolist() == [4.5, 4.5]


def test_half_precision_maps_give_float32_and_gradients():
    maps = [torch.randn(1, 3, 8, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
    found = PyramidRoIAlign(7, strides=(4, 8))(maps, [torch.tensor([[2.0, 3, 20, 30], [0, 0, 5000, 5000]])])
    assert found.dtype == torch.float32
    found.sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in maps)
