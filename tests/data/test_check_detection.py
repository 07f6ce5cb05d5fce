"""`check_objects` counts what is there and finds every planted fault."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from densevit.data.check_detection import check_objects
from densevit.data.coco import Coco
from densevit.data.scenes import ScenesDetection

REAL = Path(os.environ.get("DENSEVIT_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def box(x, y, w, h, **changes):
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {"category_id": 2, "bbox": [x, y, w, h], "area": w * h, "segmentation": [corners]} | changes


def test_good_data(tmp_path, write_coco):
    objects = [box(0, 0, 31, 33), box(0, 0, 32, 32), box(0, 0, 96, 96, category_id=7), box(5, 5, 9, 9, iscrowd=1)]
    write_coco(tmp_path, {"a.png": objects, "b.png": [box(1, 1, 2, 2)], "c.png": []}, size=(120, 100))
    seen = []
    report = check_objects(Coco(tmp_path, masks=True, strict=False), progress=seen.append)
    assert report.ok
    assert (report.problems, report.warnings, report.faults) == ([], [], [])
    assert seen == [1, 2, 3]
    assert (report.num_images, report.num_read) == (3, 3)
    assert (report.boxes, report.images) == ([3, 1], [2, 1])
    assert (report.empty_images, report.crowd_regions, report.most_objects) == (1, 1, 4)
    assert report.sizes == {"small": 2, "medium": 1, "large": 1}
    assert (report.smallest, report.largest) == ((100, 120), (100, 120))
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["ok"] is True
    assert plain["histogram"][0] == {"id": 0, "name": "cat", "boxes": 3, "images": 2}
    assert plain["with_masks"] is True


def test_every_fault_is_found_in_one_go(tmp_path, write_coco):
    away = box(0, 0, 10, 10, segmentation=[[40, 20, 50, 20, 50, 30, 40, 30]])
    thin = box(0, 0, 10, 10, segmentation=[[3, 3, 3, 3, 3, 3]])
    objects = [box(5, 5, 9, 9), box(99, 0, 3, 3), box(98, 0, 3, 3), box(0, 0, 0, 5), box(50, 30, 30, 30), away, thin]
    write_coco(tmp_path, {"a.png": objects, "b.png": [], "c.png": [box(0, 0, 4, 4)], "d.png": []})
    folder = tmp_path / "images" / "train"
    (folder / "b.png").write_text("text")
    (folder / "d.png").unlink()
    report = check_objects(Coco(tmp_path, masks=True, strict=False))
    assert not report.ok
    assert (report.num_images, report.num_read, report.boxes) == (3, 2, [5, 0])
    assert [item["id"] for item in report.unreadable] == ["b"]
    assert {fault["kind"]: (fault["count"], fault["fatal"]) for fault in report.faults} == {
        "image files missing": (1, True),
        "boxes outside their image": (2, True),
        "boxes without area, left out": (1, False),
        "boxes reach beyond their image": (1, False),
        "masks far from their box": (1, False),
        "masks without a pixel": (1, False),
    }
    problems, warnings = "\n".join(report.problems), "\n".join(report.warnings)
    assert len(report.problems) == 3
    for part in ("d.png is listed but not there", "boxes outside their image: 2 in all", "1 images cannot be read"):
        assert part in problems
    for part in ("1 of 2 classes have no object: dog", "an object of a has its mask and its box apart"):
        assert part in warnings


@pytest.mark.parametrize(
    ("objects", "args", "where", "message"),
    [
        ({"a.png": []}, {}, "problems", "no image has an object"),
        ({}, {}, "problems", "there is no image"),
        ({"a.png": [box(30, 20, 50, 35)]}, {}, "warnings", r"are they [x1, y1, x2, y2] rather than"),
        ({"a.png": [], "b.png": [], "c.png": [box(0, 0, 5, 5)]}, {}, "warnings", "2 of 3 images have no object"),
        ({"a.png": [box(0, 0, 5, 5)]}, {"categories": ((2, "x"), (3, "x"))}, "warnings", "the same name: x"),
    ],
)
def test_patterns(tmp_path, write_coco, objects, args, where, message):
    write_coco(tmp_path, objects, **args)
    report = check_objects(Coco(tmp_path, strict=False))
    assert any(message in text for text in getattr(report, where)), (report.problems, report.warnings)
    assert report.ok is (where == "warnings")


def test_generated_scenes_are_fine():
    data = ScenesDetection(image_size=(48, 64), num_images=12)
    report = check_objects(data)
    assert report.ok
    assert report.faults == []
    assert sum(report.boxes) == sum(len(item["labels"]) for item in data)
    assert sum(report.sizes.values()) == sum(report.boxes)


@pytest.mark.skipif(not (REAL / "coco128").is_dir(), reason="coco128 is not at DENSEVIT_TEST_DATA")
def test_real_data():
    """205 instances with 2 crowd regions, 45 classes present; sizes by the areas in the json."""
    report = check_objects(Coco(REAL / "coco128", split="val", masks=True, strict=False))
    annotations = json.loads((REAL / "coco128" / "annotations" / "instances_val.json").read_text())["annotations"]
    areas = np.array([a["area"] for a in annotations if not a["iscrowd"]])
    assert report.ok
    assert (report.num_read, sum(report.boxes), report.crowd_regions) == (28, 203, 2)
    assert list(report.sizes.values()) == np.histogram(areas, [0, 1024, 9216, np.inf])[0].tolist()
    assert (report.faults, report.empty_images) == ([], 0)
