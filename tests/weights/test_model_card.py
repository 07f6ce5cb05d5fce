"""Model cards of detectors; those of segmentation are tested with the files they are saved in."""

from dataclasses import replace

import pytest
import yaml

from densevit.weights.default_model import describe
from densevit.weights.info import ModelInfo
from densevit.weights.model_card import model_card


def info(name, **metrics):
    return ModelInfo(
        task="detection",
        model={"name": name, "num_classes": 2},
        classes=("person", "car"),
        palette=((0, 0, 0), (255, 0, 0)),
        category_ids=(1, 3),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        inference={"short_side": 800, "long_side": 1333, "score_threshold": 0.05},
        metrics=metrics,
        training={
            "data": {"name": "coco", "val_split": "val", "short_sides": [640, 800], "long_side": 1333},
            "train": {"num_steps": 90000},
        },
    )


@pytest.mark.parametrize("name", ["mask_rcnn_hlg_tiny", "retinanet_hlg_tiny"])
def test_card_of_a_detector(name):
    with_masks = name.startswith("mask")
    metrics = {"box_AP": 0.447} | ({"mask_AP": 0.409} if with_masks else {})
    card = model_card(info(name, **metrics), name="me/boxes", license="mit")
    _, head, text = card.split("---\n", 2)
    values = yaml.safe_load(head)
    assert values["pipeline_tag"] == "object-detection"
    assert ("instance-segmentation" in values["tags"]) == with_masks
    assert "hlg" in values["tags"]
    assert "finds the objects of 2 classes" in text
    assert "| box AP | 44.70 % |" in text
    assert ("| mask AP | 40.90 % |" in text) == with_masks
    assert "short side 800 pixels, long side at most 1333; COCO's scores" in text
    assert 'densevit.ObjectDetector.from_pretrained("me/boxes")' in text
    assert ("result.masks" in text) == with_masks
    assert "| short sides | 640, 800 |" in text
    assert "Every pixel" not in text
    assert "Objects of other classes" in text


def test_one_class():
    card = model_card(replace(info("retinanet_hlg_tiny"), classes=("person",), palette=((0, 0, 0),)))
    assert "finds the objects of 1 class in an image" in card


def test_the_info_keeps_category_ids():
    original = info("mask_rcnn_hlg_tiny")
    assert ModelInfo.from_json(original.to_json(), source="it").category_ids == (1, 3)
    without = original.to_json().replace('"category_ids": [1, 3], ', "")
    assert without != original.to_json()
    assert ModelInfo.from_json(without, source="a file from before").category_ids == ()


def test_a_model_in_a_few_words():
    assert describe(info("mask_rcnn_hlg_tiny", mask_AP=0.409)) == "mask_rcnn_hlg_tiny, trained on coco (mask_AP 40.9 %)"
    bare = ModelInfo(task="segmentation", model={"name": "a"}, classes=(), palette=(), mean=(), std=())
    assert describe(bare) == "a"
