"""Generated scenes: the same for the same seed, labels that fit the picture, objects that fit the labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from densevit.data.scene_layout import PLACES
from densevit.data.scene_palette import CLASSES, ROAD, SIGN, SKY
from densevit.data.scene_render import render_scene
from densevit.data.scene_sky import LIGHTS
from densevit.data.scenes import PALETTE, THINGS, ScenesClassification, ScenesDetection, ScenesSegmentation
from densevit.errors import UserError

SEEDS = range(24)


@pytest.fixture(scope="module")
def scenes():
    return [render_scene([5, index], (64, 96)) for index in SEEDS]


def test_same_seed_same_scene():
    first, again, other = render_scene(3, (48, 80)), render_scene(3, (48, 80)), render_scene(4, (48, 80))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.scene_class == again.scene_class
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("image_size", [(64, 64), (48, 120), (120, 48), (33, 47)])
def test_any_size(image_size):
    scene = render_scene(11, image_size)
    assert scene.image.shape == (*image_size, 3)
    assert scene.image.dtype == scene.labels.dtype == np.uint8
    assert scene.labels.shape == image_size
    assert scene.labels.max() < len(CLASSES)


def test_larger_picture_shows_the_same_scene():
    small, large = render_scene(8, (64, 96)), render_scene(8, (192, 288))
    assert small.scene_class == large.scene_class
    assert (small.labels == large.labels[1::3, 1::3]).mean() > 0.97
    coarse = large.image.reshape(64, 3, 96, 3, 3).mean(axis=(1, 3))
    assert np.abs(coarse - small.image).mean() < 12  # texture and grain differ, the scene does not


def test_all_classes_places_and_lights_occur(scenes):
    labels = np.bincount(np.concatenate([scene.labels.reshape(-1) for scene in scenes]), minlength=len(CLASSES))
    assert (labels > 0).all()
    assert labels.max() / labels.sum() < 0.5  # always guessing one class must not be a good answer
    many = [render_scene([6, index], (16, 16)) for index in range(60)]
    assert {scene.scene_class for scene in many} == set(range(len(PLACES)))
    assert {scene.light for scene in many} == set(LIGHTS)


def test_colors_follow_labels(scenes):
    for scene in scenes:
        if scene.light != "day":
            continue
        sky, road = scene.image[scene.labels == SKY].mean(), scene.image[scene.labels == ROAD].mean()
        assert sky > road + 20
    edges = [np.abs(np.diff(scene.image.astype(float).mean(-1), axis=1)) for scene in scenes]
    borders = [scene.labels[:, 1:] != scene.labels[:, :-1] for scene in scenes]
    at_border = np.mean(np.concatenate([e[b] for e, b in zip(edges, borders, strict=True)]))
    elsewhere = np.mean(np.concatenate([e[~b] for e, b in zip(edges, borders, strict=True)]))
    assert at_border > 2 * elsewhere  # labels change where the picture does


def test_instances_match_labels_and_boxes(scenes):
    assert sum(len(scene.instances) for scene in scenes) > 3 * len(scenes)
    for scene in scenes:
        taken = np.zeros(scene.labels.shape, dtype=int)
        for item in scene.instances:
            assert item.class_id in THINGS
            assert (scene.labels[item.mask] == item.class_id).all()
            rows, columns = np.nonzero(item.mask)
            assert item.box_xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            taken += item.mask
        assert taken.max(initial=0) <= 1


def test_segmentation_samples():
    data = ScenesSegmentation(split="val", image_size=(48, 64), num_images=3)
    assert len(data) == 3
    assert data.classes == CLASSES
    assert len(data.palette) == len(set(PALETTE)) == len(CLASSES)
    item = data[1]
    assert isinstance(item["image"], tv_tensors.Image)
    assert isinstance(item["mask"], tv_tensors.Mask)
    assert item["image"].shape == (3, 48, 64)
    assert item["mask"].shape == (48, 64)
    assert item["mask"].dtype == torch.uint8
    assert item["id"] == "00001"
    assert torch.equal(data[-2]["image"], item["image"])
    assert len(list(data)) == 3
    assert len(ScenesSegmentation()) == 1000


def test_splits_and_seeds_differ():
    def image(**args):
        return ScenesSegmentation(image_size=(32, 48), **args)[0]["image"]

    pictures = [image(), image(split="val"), image(split="test"), image(seed=1)]
    for index, first in enumerate(pictures):
        assert not any(torch.equal(first, other) for other in pictures[index + 1 :])


def test_cache_gives_the_same_and_survives_changes_in_place():
    plain = ScenesSegmentation(image_size=(32, 48), num_images=2)
    cached = ScenesSegmentation(image_size=(32, 48), num_images=2, cache=True)
    item = cached[0]
    item["image"].zero_()
    item["mask"].zero_()
    for key in ("image", "mask"):
        assert torch.equal(cached[0][key], plain[0][key])


def test_detection_and_classification_share_the_pictures():
    args = {"split": "val", "image_size": (64, 96), "num_images": 8}
    masks, boxes, places = ScenesSegmentation(**args), ScenesDetection(**args), ScenesClassification(**args)
    assert boxes.classes == ("car", "pedestrian", "sign")
    assert places.classes == PLACES
    for index in range(8):
        item = boxes[index]
        assert torch.equal(item["image"], masks[index]["image"])
        assert torch.equal(item["image"], places[index]["image"])
        assert isinstance(item["boxes"], tv_tensors.BoundingBoxes)
        count = len(item["labels"])
        assert item["boxes"].shape == (count, 4)
        assert item["masks"].shape == (count, 64, 96)
        for label, mask in zip(item["labels"].tolist(), item["masks"], strict=True):
            assert (masks[index]["mask"][mask] == THINGS[label]).all()
        assert 0 <= places[index]["label"] < len(PLACES)
    assert THINGS[2] == SIGN


def test_picture_without_objects():
    data = ScenesDetection(image_size=(32, 32), cache=True)
    data.scenes._cache[0] = replace(data.scenes[0], instances=())
    empty = data[0]
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, 32, 32)
    assert empty["labels"].dtype == torch.int64


def test_bad_arguments():
    with pytest.raises(UserError, match="unknown split 'vall'; did you mean 'val'"):
        ScenesSegmentation(split="vall")
    with pytest.raises(UserError, match=r"image_size \(8, 64\)"):
        ScenesSegmentation(image_size=(8, 64))
    with pytest.raises(UserError, match="num_images 0"):
        ScenesDetection(num_images=0)
