"""Palettes, colours and palette PNGs."""

import numpy as np
import pytest
from PIL import Image

from densevit.errors import UserError
from densevit.visualize.palette import _oklab, colourize, default_palette, write_label_png


def test_palettes_are_distinct_and_grow_at_the_end():
    for num_classes in (1, 2, 19, 150, 400):
        palette = default_palette(num_classes)
        assert len(set(palette)) == num_classes
        assert (0, 0, 0) not in palette
        assert palette == default_palette(400)[:num_classes]
        assert all(0 <= value <= 255 and isinstance(value, int) for colour in palette for value in colour)


def test_colours_differ_to_the_eye():
    lab = _oklab(np.array(default_palette(150)))
    distances = np.sqrt(((lab[:, None] - lab[None]) ** 2).sum(-1)) + np.eye(150)
    assert distances.min() > 0.03
    assert distances[:12, :12].min() > 0.08


def test_oklab_of_known_colours():
    lab = _oklab(np.array([(255, 255, 255), (0, 0, 0), (255, 0, 0)]))
    np.testing.assert_allclose(lab, [[1, 0, 0], [0, 0, 0], [0.6280, 0.2249, 0.1258]], atol=1e-3)


def test_no_colours_is_refused():
    with pytest.raises(UserError, match="at least 1"):
        default_palette(0)


def test_colourize():
    labels = np.array([[0, 1, 255], [1, -1, 2]])
    colours = colourize(labels, palette=[(1, 2, 3), (4, 5, 6)], ignore_colour=(9, 9, 9))
    assert colours.dtype == np.uint8
    assert colours.tolist() == [[[1, 2, 3], [4, 5, 6], [9, 9, 9]], [[4, 5, 6], [9, 9, 9], [9, 9, 9]]]


def test_label_png_keeps_classes_and_shows_colours(tmp_path):
    labels = np.array([[0, 1, 255], [1, 1, 0]], dtype=np.int64)
    write_label_png(labels, tmp_path / "a.png", palette=[(10, 20, 30), (40, 50, 60)])
    image = Image.open(tmp_path / "a.png")
    assert image.mode == "P"
    assert np.asarray(image).tolist() == labels.tolist()
    assert np.asarray(image.convert("RGB"))[0].tolist() == [[10, 20, 30], [40, 50, 60], [0, 0, 0]]


def test_many_classes_take_sixteen_bits(tmp_path):
    labels = np.array([[0, 299], [256, 65535]])
    write_label_png(labels, tmp_path / "a.png", palette=default_palette(300))
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == labels.tolist()


def test_labels_beyond_a_byte_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"0 \.\. 300"):
        write_label_png(np.array([[0, 300]]), tmp_path / "a.png", palette=default_palette(2))
