"""Polygons and run lengths: the same pixels as pycocotools, and nothing drawn that is broken."""

import builtins
import sys

import numpy as np
import pytest
from pycocotools import mask as reference

from densevit.data.coco_masks import MaskStore, compressed_code, mask_library, polygon_fault, run_lengths
from densevit.errors import UserError

SIZE = (23, 31)


def random_masks(number, *, size=SIZE, seed=0):
    generator = np.random.default_rng(seed)
    blocks = generator.random((number, *size)) < generator.random((number, 1, 1))
    return np.repeat(np.repeat(blocks, 2, axis=1), 2, axis=2)[:, : size[0], : size[1]]


def code(mask):
    return reference.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_run_lengths_are_those_of_the_mask():
    for mask in [*random_masks(20), np.zeros(SIZE, bool), np.ones(SIZE, bool), *random_masks(2, size=(300, 500))]:
        flat = mask.T.reshape(-1)
        changes = np.flatnonzero(np.diff(flat, prepend=False)) if flat.any() else np.empty(0, int)
        expected = np.diff(np.concatenate([[0], changes, [flat.size]]))
        np.testing.assert_array_equal(run_lengths(code(mask)["counts"]), expected)


def test_codes_of_both_kinds_come_back_as_the_mask():
    masks = random_masks(40)
    store = MaskStore()
    for number, mask in enumerate(masks):
        found = code(mask)
        text = {"size": list(SIZE), "counts": found["counts"].decode()}
        runs = {"size": list(SIZE), "counts": run_lengths(found["counts"]).tolist()}
        store.add_code(compressed_code(runs if number % 2 else text, size=SIZE))
    assert len(store) == 40
    np.testing.assert_array_equal(store.decode(range(40), size=SIZE), masks)
    np.testing.assert_array_equal(store.decode(np.array([7, 3]), size=SIZE), masks[[7, 3]])
    assert store.decode([], size=SIZE).shape == (0, *SIZE)


def test_polygons_are_drawn_as_pycocotools_draws_them():
    generator = np.random.default_rng(1)
    objects = [
        [(generator.random(2 * corners) * 34 - 2).round(2).tolist() for corners in (3, 7)[: 1 + number % 2]]
        for number in range(30)
    ]
    store = MaskStore()
    for parts in objects:
        store.add_polygons(parts)
    drawn = store.decode(range(30), size=SIZE)
    for mask, parts in zip(drawn, objects, strict=True):
        expected = reference.decode(reference.merge(reference.frPyObjects(parts, *SIZE)))
        np.testing.assert_array_equal(mask, expected)
    assert drawn.any(axis=(1, 2)).sum() > 20


def test_kinds_may_be_mixed_and_an_object_may_have_none():
    store = MaskStore()
    store.add_polygons([[0.1, 0.2, 0.5, 0.2, 0.5, 0.6, 0.1, 0.6]])
    store.add_polygons([])
    mask = random_masks(1)[0]
    store.add_code(code(mask)["counts"])
    square, nothing = store.decode([0, 1], size=(20, 30), scale=(30, 20))
    assert np.argwhere(square).min(0).tolist() == [4, 3]
    assert np.argwhere(square).max(0).tolist() == [11, 14]
    assert not nothing.any()
    np.testing.assert_array_equal(store.decode([1, 2], size=SIZE), [np.zeros(SIZE, bool), mask])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ([0, 0, 5, 0, 5, 5], None),
        ((0.5, -3, 30, 0, 5, 33.5), None),
        ([0, 0, 5, 0], "has 2 points; it takes at least 3"),
        ([], "has 0 points"),
        ([0, 0, 5, 0, 5], "has 5 numbers; it takes pairs"),
        ([0, 0, 5, 0, float("nan"), 5], "not finite"),
        ([0, 0, 5, 0, "6", 5], "no number"),
        ([0, 0, 5, 0, None, 5], "no number"),
        ([0, 0, 5, 0, 10**400, 5], "far too large"),
        ([0, 0, 1e9, 0, 5, 5], "far outside the image"),
        ([0, 0, -40, 0, 5, 5], "far outside the image"),
        (3.0, "a segmentation a list of polygons"),
    ],
)
def test_polygon_faults(part, message):
    found = polygon_fault(part, size=SIZE)
    assert (found is None) if message is None else (message in found)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [31, 23], "counts": [713]}, r"of size \[31, 23\], its image \[23, 31\]"),
        ({"counts": [713]}, "of size None"),
        ({"size": [23, 31], "counts": [700]}, "covers 700 pixels, its image has 713; is it cut off"),
        ({"size": [23, 31], "counts": [800, -87]}, "713 pixels"),
        ({"size": [23, 31], "counts": [713.0]}, "neither text nor a list"),
        ({"size": [23, 31]}, "neither text nor a list"),
        ({"size": [23, 31], "counts": "1"}, "covers 1 pixels"),
        ({"size": [23, 31], "counts": ""}, "no text of COCO's form"),
        ({"size": [23, 31], "counts": "ünsinn"}, "no text of COCO's form"),
        ({"size": [23, 31], "counts": "11o"}, "no text of COCO's form"),
        ({"size": [23, 31], "counts": "oooooooooooooo1"}, "longer than any image"),
    ],
)
def test_run_length_faults(rle, message):
    with pytest.raises(UserError, match=message):
        compressed_code(rle, size=SIZE)


def test_missing_library_is_named(monkeypatch):
    found = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("faster_coco_eval"):
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, "faster_coco_eval", raising=False)
    with pytest.raises(UserError, match=r"pip install 'densevit\[detection\]'"):
        mask_library()
