"""`check_dataset` finds every planted fault and goes on to the next file."""

import json

import numpy as np
import pytest
from PIL import Image

from densevit.data.check import check_dataset
from densevit.data.folder import Folder
from densevit.data.scenes import ScenesSegmentation


def folder(root, masks, *, classes="road\ncar\nsky\n", **args):
    """A folder data set of the given {name: mask}; images are 6 x 4 (W x H)."""
    for kind in ("images", "masks"):
        (root / kind / "train").mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text(classes)
    for name, ids in masks.items():
        Image.new("RGB", (6, 4)).save(root / "images" / "train" / f"{name}.jpg")
        if ids is not None:
            Image.fromarray(np.asarray(ids, dtype=np.uint8)).save(root / "masks" / "train" / f"{name}.png")
    return Folder(root, strict=False, **args)


def rows(*ids):
    """A 4 x 6 mask with these ids, one a row, the last repeated."""
    return np.repeat(np.array([*ids, *[ids[-1]] * (4 - len(ids))])[:, None], 6, axis=1)


def test_good_data(tmp_path):
    report = check_dataset(folder(tmp_path, {"a": rows(0, 1, 2, 255), "b": rows(1)}))
    assert report.ok
    assert report.warnings == []
    assert report.pixels == [6, 6 + 24, 6]
    assert report.ignored_pixels == 6
    assert report.image_sizes == {"min": [4, 6], "max": [4, 6], "most_common": [4, 6], "share": 1.0}
    assert report.never_seen == []
    assert json.loads(json.dumps(report.to_dict()))["histogram"][1] == {
        "id": 1, "name": "car", "pixels": 30, "share": 30 / 42,
    }  # fmt: skip


def test_every_fault_is_found_in_one_go(tmp_path):
    root = tmp_path / "böse Daten"
    masks = {"good": rows(0, 1), "size": np.zeros((4, 5)), "label": rows(200, 0), "cut": rows(0), "alone": None}
    folder(root, masks)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "images" / "train" / "cut.jpg")
    whole = (root / "images" / "train" / "cut.jpg").read_bytes()
    (root / "images" / "train" / "cut.jpg").write_bytes(whole[:2000])
    Image.new("L", (6, 4)).save(root / "masks" / "train" / "orphan.png")
    seen = []
    report = check_dataset(Folder(root, strict=False), progress=lambda done, total: seen.append((done, total)))
    assert not report.ok
    assert (report.num_pairs, report.num_read) == (4, 3)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [path.rsplit("/", 1)[-1] for path in report.images_without_mask] == ["alone.jpg"]
    assert [path.rsplit("/", 1)[-1] for path in report.masks_without_image] == ["orphan.png"]
    assert [item["id"] for item in report.unreadable] == ["cut"]
    assert report.wrong_size == [{"id": "size", "image_size": [4, 6], "mask_size": [4, 5]}]
    assert report.outside == {200: {"pixels": 6, "images": 1, "example": "label"}}
    assert report.never_seen == ["sky"]
    text = "\n".join(report.problems)
    for part in ("1 images have no mask", "cut.jpg", "mask 5x4, image 6x4", "ids 200 are outside the class list of 3"):
        assert part in text
    assert len(report.problems) == 4


@pytest.mark.parametrize(
    ("ids", "args", "where", "message"),
    [
        ((1, 2, 3), {}, "problems", "ids run from 1 to 3: set reduce_zero_label=True"),
        ((0, 1, 2, 3), {}, "problems", "ids run from 0 to 3, one more than there are classes: if 0 is background"),
        ((0, 1, 2, 9), {}, "problems", "save these pixels as 255"),
        ((1, 2), {}, "warnings", "id 0, 'road', is never used: if the ids start at 1"),
        ((0, 1, 2), {"reduce_zero_label": True}, "warnings", "the last class, 'sky', has no pixel"),
        ((255,), {}, "problems", "every pixel is marked as ignored"),
        ((0, 255), {}, "warnings", "75% of the pixels are marked as ignored"),
    ],
)
def test_background_and_ignore_patterns(tmp_path, ids, args, where, message):
    report = check_dataset(folder(tmp_path, {"a": rows(*ids)}, **args))
    assert any(message in text for text in getattr(report, where)), (report.problems, report.warnings)
    assert report.ok is (where == "warnings")


def test_reduce_zero_label_makes_one_based_ids_right(tmp_path):
    report = check_dataset(folder(tmp_path, {"a": rows(1, 2, 3, 0)}, reduce_zero_label=True))
    assert report.ok
    assert report.pixels == [6, 6, 6]
    assert report.warnings == []


def test_rare_classes(tmp_path):
    data = folder(tmp_path, {"a": rows(0)})
    big = np.zeros((200, 200), dtype=np.uint8)
    big[0, 0], big[1] = 1, 2
    Image.fromarray(big).save(tmp_path / "masks" / "train" / "a.png")
    Image.new("RGB", (200, 200)).save(tmp_path / "images" / "train" / "a.jpg")
    assert check_dataset(data).warnings == ["classes with less than 0.01% of the labelled pixels: car"]


def test_generated_scenes_are_fine():
    report = check_dataset(ScenesSegmentation(image_size=(48, 64), num_images=12))
    assert report.ok
    assert sum(report.pixels) == 12 * 48 * 64
