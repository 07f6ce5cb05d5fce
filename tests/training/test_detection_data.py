"""Batches of detection: lists of the documented form, the same for any number of workers and after a resume."""

from dataclasses import replace

import pytest
import torch

from densevit.errors import UserError
from densevit.training.config_detection_data import DetectionDataConfig
from densevit.training.data import SegmentationData
from densevit.training.detection_data import DetectionData

CONFIG = DetectionDataConfig(
    name="scenes_detection",
    args={"image_size": (32, 48), "num_images": 5},
    batch_size=2,
    num_workers=0,
    short_sides=(32, 40),
    long_side=60,
)


def make(num_batches=4, seed=3, **changes):
    return DetectionData(replace(CONFIG, **changes), num_batches=num_batches, seed=seed, short_side=40, long_side=60)


def assert_same(ours, theirs):
    assert ours["id"] == theirs["id"]
    for one, other in zip(ours["image"], theirs["image"], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(ours["target"], theirs["target"], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_training_batches():
    data = make()
    assert (data.classes, data.category_ids, data.has_masks) == (("car", "pedestrian", "sign"), (1, 2, 3), True)
    assert len(data.palette) == 3
    for batch in data.train_dataloader():
        assert set(batch) == {"image", "image_id", "id", "target"}
        for image, target in zip(batch["image"], batch["target"], strict=True):
            assert type(image) is torch.Tensor
            assert image.dtype == torch.float32
            assert min(image.shape[-2:]) in (32, 40)
            assert set(target) == {"boxes", "labels", "masks"}
            assert all(type(value) is torch.Tensor for value in target.values())
            assert target["masks"].shape == (len(target["boxes"]), *image.shape[-2:])
            assert target["labels"].dtype == torch.int64
            assert (target["boxes"][:, 2:] - target["boxes"][:, :2] >= 1).all()


def test_validation_batches():
    data = make()
    batches = list(data.val_dataloader())
    assert [batch["image_id"] for batch in batches] == [[0], [1], [2], [3], [4]]
    for batch, item in zip(batches, data.val_set, strict=True):
        assert set(batch) == {"image", "image_id", "id", "size", "truth"}
        assert batch["size"] == [(32, 48)]
        assert batch["image"][0].shape == (3, 40, 60)
        assert torch.equal(batch["truth"][0]["boxes"], item["truth"]["boxes"].as_subclass(torch.Tensor))
        assert batch["truth"][0]["masks"].shape[1:] == (32, 48)
        assert set(batch["truth"][0]) == {"boxes", "labels", "masks", "iscrowd", "area"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_with_any_number_of_workers(num_workers):
    whole = list(make(jitter=(0.5, 2.0), jitter_size=(32, 32), photometric=True).train_dataloader())
    resumed = make(jitter=(0.5, 2.0), jitter_size=(32, 32), photometric=True, num_workers=num_workers)
    resumed.start_batch = 2
    rest = list(resumed.train_dataloader())
    assert len(rest) == 2
    for ours, theirs in zip(rest, whole[2:], strict=True):
        assert_same(ours, theirs)


def test_coco_with_gaps_empty_images_and_many_objects(tmp_path, write_coco):
    item = {"category_id": 7, "bbox": [1, 1, 20, 20], "segmentation": [[1, 1, 21, 1, 21, 21, 1, 21]]}
    crowd = item | {"iscrowd": 1, "category_id": 2}
    for split in ("train", "val"):
        write_coco(tmp_path, {"a.png": [item] * 30 + [crowd], "b.png": []}, split=split)
    changes = {"name": "coco", "root": str(tmp_path), "args": {"masks": True}, "max_objects": 12}
    data = make(**changes)
    assert (data.classes, data.category_ids) == (("cat", "dog"), (2, 7))
    batch = next(iter(data.train_dataloader()))
    assert sorted(len(target["labels"]) for target in batch["target"]) == [0, 12]
    assert {tuple(target["labels"].tolist()) for target in batch["target"]} == {(), (1,) * 12}
    truth = next(iter(data.val_dataloader()))["truth"][0]
    assert truth["labels"].tolist() == [1] * 30 + [0]
    assert truth["iscrowd"].sum() == 1
    without = make(**changes, keep_empty=False)
    assert (without.train_set.ids, without.val_set.ids) == (("a",), ("a", "b"))


def test_mistakes(tmp_path, write_coco, tiny):
    with pytest.raises(UserError, match=r"'scenes' has no objects; use coco"):
        make(name="scenes")
    with pytest.raises(UserError, match="'scenes_detection' has no mask for an image"):
        SegmentationData(replace(tiny().data, name="scenes_detection"), num_batches=1, seed=0)
    with pytest.raises(UserError, match=r"set data\.keep_empty=true"):
        _ = make(keep_empty=False).train_set
    item = {"category_id": 7, "bbox": [1, 1, 20, 20]}
    write_coco(tmp_path, {"a.png": [item]}, split="train")
    write_coco(tmp_path, {"a.png": [item]}, split="val", categories=((7, "horse"),))
    with pytest.raises(UserError, match="different classes"):
        _ = make(name="coco", root=str(tmp_path), args={}).train_set
    write_coco(tmp_path, {}, split="val")
    with pytest.raises(UserError, match="no image in split 'val'"):
        make(name="coco", root=str(tmp_path), args={})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "data.batch_size must be at least 1"),
        ({"num_workers": -1}, "data.num_workers"),
        ({"short_sides": ()}, "data.short_sides must be positive"),
        ({"short_sides": (70,)}, "at most data.long_side 60"),
        ({"jitter": (2.0, 1.0)}, "data.jitter"),
        ({"jitter_size": (0, 1)}, "data.jitter_size"),
        ({"flip": 2.0}, "data.flip"),
        ({"max_objects": 0}, "data.max_objects"),
        ({"std": (1.0, 0.0, 1.0)}, "data.std"),
        ({"mean": (1.0,)}, "one number per channel"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(UserError, match=message):
        replace(CONFIG, **changes)


def test_defaults_are_the_papers():
    config = DetectionDataConfig()
    assert (config.batch_size, config.flip, config.long_side) == (16, 0.5, 1333)
    assert config.short_sides == tuple(range(640, 801, 32))
