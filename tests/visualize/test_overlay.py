"""Overlays, boundaries and legends, pixel by pixel."""

import numpy as np
import pytest

from densevit.errors import UserError
from densevit.visualize.overlay import boundaries, legend, overlay

PALETTE = ((200, 0, 0), (0, 200, 0))


def test_overlay_blends_and_leaves_ignored_pixels():
    image = np.full((2, 3, 3), 100, dtype=np.uint8)
    labels = np.array([[0, 1, 255], [0, 1, 255]])
    before = image.copy()
    picture = overlay(image, labels, palette=PALETTE, alpha=0.25, outline=False)
    assert picture[0].tolist() == [[125, 75, 75], [75, 125, 75], [100, 100, 100]]
    assert (image == before).all()
    assert (overlay(image, labels, palette=PALETTE, alpha=0, outline=False) == image).all()


def test_boundaries_are_one_pixel_wide():
    labels = np.zeros((4, 5), dtype=np.uint8)
    labels[2:, 3:] = 1
    expected = np.zeros((4, 5), dtype=bool)
    expected[2:, 2] = True  # left of the block
    expected[1, 3:] = True  # above it
    assert (boundaries(labels) == expected).all()
    picture = overlay(np.zeros((4, 5, 3), dtype=np.uint8), labels, palette=PALETTE)
    assert ((picture == 255).all(-1) == expected).all()


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(UserError, match=r"0 \.\. 1"):
        overlay(np.zeros((2, 3, 3), dtype=np.uint8), np.zeros((2, 3), dtype=int), palette=PALETTE, alpha=alpha)


def test_labels_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\) but labels are \(3, 2\)"):
        overlay(np.zeros((2, 3, 3), dtype=np.uint8), np.zeros((3, 2), dtype=int), palette=PALETTE)


@pytest.mark.parametrize("num_classes", [2, 150])
@pytest.mark.parametrize("width", [60, 700])
def test_legend_shows_every_colour_within_its_width(num_classes, width):
    from densevit.visualize.palette import default_palette

    palette = default_palette(num_classes)
    names = [f"class {k}" if k % 5 else f"a very long class name with number {k}" for k in range(num_classes)]
    picture = legend(names, palette=palette, width=width)
    assert picture.shape[1] == width
    found = set(map(tuple, picture.reshape(-1, 3).tolist()))
    assert set(palette) <= found
    assert (picture[:, -1] == 255).all()  # no text runs into the edge


def test_legend_of_some_classes():
    picture = legend(["a", "b"], palette=PALETTE, width=100, present=[1])
    colours = set(map(tuple, picture.reshape(-1, 3).tolist()))
    assert PALETTE[1] in colours
    assert PALETTE[0] not in colours
    assert legend(["a", "b"], palette=PALETTE, width=100, present=[]).shape == (0, 100, 3)
