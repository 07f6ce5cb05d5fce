"""Drawn objects: where colours land, tags that do not cover each other, scaling."""

import numpy as np
import pytest

from densevit.errors import UserError
from densevit.visualize.boxes import _overlap, _place_tags, draw_objects, scale_to_width
from densevit.visualize.text import load_font

PALETTE = ((200, 0, 0), (0, 0, 200))


def grey(height=120, width=200):
    return np.full((height, width, 3), 128, dtype=np.uint8)


def test_boxes_and_masks_have_the_colours_of_their_classes():
    image = grey()
    boxes = np.array([[20.0, 30.0, 80.0, 90.0], [110.0, 30.0, 190.0, 110.0]])
    masks = np.zeros((2, 120, 200), dtype=bool)
    masks[0, 40:80, 30:70] = True
    drawn = draw_objects(image, boxes=boxes, labels=[0, 1], texts=["", ""], palette=PALETTE, masks=masks, alpha=0.5)
    assert (image == 128).all()
    assert drawn[30, 50].tolist() == drawn[89, 50].tolist() == drawn[50, 20].tolist() == [200, 0, 0]
    assert drawn[30, 150].tolist() == drawn[60, 189].tolist() == [0, 0, 200]
    assert drawn[60, 50].tolist() == [164, 64, 64]  # half of the red mask
    assert drawn[40, 50].tolist() == [200, 0, 0]  # its edge
    assert drawn[60, 150].tolist() == [128, 128, 128]  # the other has no mask pixel
    assert drawn[35, 25].tolist() == [128, 128, 128]


def test_the_first_object_is_in_front():
    box = np.array([[20.0, 20.0, 90.0, 90.0]] * 2)
    drawn = draw_objects(grey(), boxes=box, labels=[1, 0], texts=["", ""], palette=PALETTE)
    assert drawn[20, 50].tolist() == [0, 0, 200]


def test_tags_are_written_inside_the_picture_beside_each_other():
    font, size = load_font(12), (120, 200)
    frames = [(0, 0, 199, 119), (0, 0, 198, 118), (2, 2, 60, 60), (150, 5, 199, 119), (0, 100, 60, 119)]
    tags = _place_tags(frames, ["person 97 %", "dog", "", "traffic light 55 %", "a" * 200], font=font, size=size)
    assert sorted(tag.index for tag in tags) == [0, 1, 3, 4]
    for tag in tags:
        left, top, right, bottom = tag.place
        assert left >= 0
        assert top >= 0
        assert right <= 200
        assert bottom <= 120
    assert not any(_overlap(a.place, b.place) for a in tags for b in tags if a is not b)
    assert tags[0].text.endswith("…")


def test_text_is_drawn_in_a_filled_tag():
    box = np.array([[40.0, 60.0, 160.0, 110.0]])
    with_text = draw_objects(grey(), boxes=box, labels=[1], texts=["person"], palette=PALETTE)
    above = with_text[46:59, 42:80].reshape(-1, 3)
    assert (above == (0, 0, 200)).all(axis=1).any()
    assert (above == 255).all(axis=1).any()  # white letters on dark blue


def test_boxes_outside_and_without_area_do_no_harm():
    boxes = np.array([[-50.0, -10.0, 500.0, 400.0], [199.9, 119.9, 200.0, 120.0], [50.0, 50.0, 50.0, 50.0]])
    drawn = draw_objects(grey(), boxes=boxes, labels=[0, 0, 1], texts=["a", "b", "c"], palette=PALETTE)
    assert drawn.shape == (120, 200, 3)
    assert drawn[60, 0].tolist() == [200, 0, 0]
    nothing = draw_objects(grey(), boxes=np.zeros((0, 4)), labels=[], texts=[], palette=PALETTE)
    assert (nothing == 128).all()
    tiny = draw_objects(grey(3, 5), boxes=boxes[:1], labels=[0], texts=["person"], palette=PALETTE)
    assert tiny.shape == (3, 5, 3)


def test_mistakes():
    empty = {"boxes": np.zeros((0, 4)), "labels": [], "texts": [], "palette": PALETTE}
    with pytest.raises(UserError, match=r"opacity of masks is 1\.5"):
        draw_objects(grey(), **empty, alpha=1.5)
    with pytest.raises(ValueError, match="resize the masks"):
        draw_objects(grey(), **empty | {"boxes": np.zeros((1, 4)), "labels": [0], "texts": [""]},
                     masks=np.ones((1, 4, 4), dtype=bool))  # fmt: skip


def test_scaling():
    masks = np.zeros((1, 60, 100), dtype=bool)
    masks[0, :30, 50:] = True
    boxes = np.array([[50.0, 0.0, 100.0, 30.0]])
    picture, scaled, large = scale_to_width(grey(60, 100), boxes=boxes, masks=masks, width=250)
    assert picture.shape == (150, 250, 3)
    assert scaled.tolist() == [[125.0, 0.0, 250.0, 75.0]]
    assert large.shape == (1, 150, 250)
    assert large[0, :75, 125:].all()
    assert large.sum() == 75 * 125
    assert scale_to_width(grey(), boxes=boxes, masks=None, width=50)[2] is None
    other = scale_to_width(grey(120, 200), boxes=boxes, masks=masks, width=50, size=(60, 100))
    assert other[0].shape == (30, 50, 3)
    assert other[1].tolist() == [[25.0, 0.0, 50.0, 15.0]]
    assert other[2][0, :15, 25:].sum() == other[2].sum() == 15 * 25
