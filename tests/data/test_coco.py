"""COCO's json: what is read, and one sentence for each way in which it can be wrong."""

import json
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from densevit.data.coco import Coco
from densevit.errors import UserError

REAL = Path(os.environ.get("DENSEVIT_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))

SQUARE = {"category_id": 7, "bbox": [10, 5, 20, 10], "segmentation": [[10, 5, 30, 5, 30, 15, 10, 15]], "area": 150.5}
CROWD = {
    "category_id": 2,
    "bbox": [0, 0, 2, 40],
    "iscrowd": 1,
    "area": 80,
    "segmentation": {"size": [40, 60], "counts": [0, 80, 2320]},
}


def test_sample(tmp_path, write_coco):
    write_coco(tmp_path, {"a.png": [SQUARE, CROWD], "b.png": []})
    data = Coco(tmp_path, masks=True)
    assert (len(data), data.classes, data.category_ids) == (2, ("cat", "dog"), (2, 7))
    assert len(set(data.palette)) == 2
    assert (0, 0, 0) not in data.palette
    first, empty = list(data)
    assert (first["id"], first["image_id"], empty["image_id"]) == ("a", 10, 20)
    assert first["image"].shape == (3, 40, 60)
    assert isinstance(first["boxes"], tv_tensors.BoundingBoxes)
    assert isinstance(first["masks"], tv_tensors.Mask)
    assert first["boxes"].tolist() == [[10, 5, 30, 15], [0, 0, 2, 40]]
    assert first["labels"].tolist() == [1, 0]
    assert first["iscrowd"].tolist() == [False, True]
    assert first["area"].tolist() == [150.5, 80]
    assert first["masks"].dtype == torch.bool
    expected = torch.zeros(2, 40, 60, dtype=torch.bool)
    expected[0, 5:15, 10:30] = True
    expected[1, :, :2] = True
    assert torch.equal(first["masks"].as_subclass(torch.Tensor), expected)
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, 40, 60)
    assert (empty["labels"].dtype, empty["iscrowd"].dtype, empty["area"].dtype) == (
        torch.int64, torch.bool, torch.float64,
    )  # fmt: skip


def test_masks_only_where_asked_for(tmp_path, write_coco):
    write_coco(tmp_path, {"a.png": [SQUARE]})
    assert "masks" not in Coco(tmp_path)[0]
    assert not Coco(tmp_path).has_masks
    assert Coco(tmp_path, masks=None)[0]["masks"].sum() == 200
    write_coco(tmp_path, {"a.png": [SQUARE | {"segmentation": []}]})
    assert not Coco(tmp_path, masks=None).has_masks
    with pytest.raises(UserError, match="annotation 1 has no segmentation; set masks=False"):
        Coco(tmp_path, masks=True)


@pytest.mark.parametrize(("masks", "area"), [(True, 50), (False, 200)])
def test_area_that_is_not_stated(tmp_path, write_coco, masks, area):
    half = {"segmentation": [[10, 5, 15, 5, 15, 15, 10, 15]]}
    write_coco(tmp_path, {"a.png": [{k: v for k, v in SQUARE.items() if k != "area"} | half]})
    assert Coco(tmp_path, masks=masks)[0]["area"].tolist() == [area]


def test_images_without_objects(tmp_path, write_coco):
    write_coco(tmp_path, {"a.png": [], "b.png": [SQUARE], "c.png": [CROWD]})
    assert Coco(tmp_path).ids == ("a", "b", "c")
    kept = Coco(tmp_path, keep_empty=False)
    assert (kept.ids, kept.image_ids) == (("b",), (20,))
    assert kept[0]["boxes"].tolist() == [[10, 5, 30, 15]]
    assert kept.image_path(0).name == "b.png"


def test_annotations_in_any_order_and_small_when_pickled(tmp_path, write_coco):
    document = write_coco(tmp_path, {"a.png": [SQUARE, CROWD], "b.png": [SQUARE | {"bbox": [1, 1, 2, 2]}]})
    document["annotations"].reverse()
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(document))
    data = pickle.loads(pickle.dumps(Coco(tmp_path, masks=True)))
    assert data[0]["labels"].tolist() == [0, 1]
    assert data[1]["boxes"].tolist() == [[1, 1, 3, 3]]
    assert data[0]["masks"][1, 5:15, 10:30].all()


def test_many_objects_in_one_image(tmp_path, write_coco):
    many = [SQUARE | {"bbox": [k % 50, k % 30, 5, 5], "category_id": (2, 7)[k % 2]} for k in range(5000)]
    write_coco(tmp_path, {"a.png": [*many, CROWD]})
    start = time.process_time()
    data = Coco(tmp_path, masks=True)
    assert data[0]["masks"].shape == (5001, 40, 60)
    assert time.process_time() - start < 10  # a second; far more if the time grew with the square of their number
    data.max_objects = 100
    torch.manual_seed(0)
    one, other = data[0], data[0]
    assert one["masks"].shape == (100, 40, 60)
    assert not one["iscrowd"].any()
    assert not torch.equal(one["boxes"], other["boxes"])
    torch.manual_seed(0)
    assert torch.equal(data[0]["boxes"], one["boxes"])


def faulty(annotation=None, **changes):
    return (annotation or SQUARE) | changes


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (faulty(bbox=[60, 5, 3, 3]), r"bbox \[60, 5, 3, 3\], outside its image a.png of 60x40"),
        (faulty(bbox=[10, 5, -4, 3]), "not corners"),
        (faulty(bbox=[10, 5, 4]), r"four numbers \[x, y, w, h\]"),
        (faulty(bbox=None), "has bbox None"),
        (faulty(bbox=[1, 2, float("nan"), 3]), "it takes four numbers"),
        (faulty(bbox=[1, 2, "3", 3]), "it takes four numbers"),
        (faulty(bbox=[1, 2, True, 3]), "it takes four numbers"),
        (faulty(category_id=3), "is of category 3, which is not among the categories"),
        (faulty(category_id="7"), "is of category '7'"),
        (faulty(image_id=99), "is of image 99, which is not listed"),
        (faulty(image_id=None), "is of image None"),
        (faulty(iscrowd=2), "has iscrowd 2"),
        (faulty(segmentation=[[1, 1, 5, 5]]), "a polygon has 2 points"),
        (faulty(segmentation=[[1, 1, 5, 5, 7]]), "pairs x, y"),
        (faulty(segmentation=[1, 1, 5, 5, 7, 7]), "a segmentation a list of polygons"),
        (faulty(segmentation=[[1, 1, 5, 5, 7, 1e9]]), "far outside the image"),
        (faulty(segmentation=None), "has no segmentation"),
        (faulty(segmentation={"size": [60, 40], "counts": [2400]}), r"of size \[60, 40\], its image \[40, 60\]"),
        (faulty(segmentation={"size": [40, 60], "counts": [2000]}), "covers 2000 pixels"),
        (faulty(segmentation={"size": [40, 60], "counts": "!"}), "no text of COCO's form"),
    ],
)
def test_faulty_annotations(tmp_path, write_coco, annotation, message):
    write_coco(tmp_path, {"a.png": [SQUARE, annotation, SQUARE]})
    with pytest.raises(UserError, match=message) as caught:
        Coco(tmp_path, masks=True)
    assert "annotation 2 " in str(caught.value)
    assert "instances_train.json" in str(caught.value)
    rest = Coco(tmp_path, masks=True, strict=False)
    assert rest[0]["boxes"].tolist() == [[10, 5, 30, 15]] * 2
    assert rest[0]["masks"].sum(dim=(1, 2)).tolist() == [200, 200]
    assert [fault["count"] for fault in rest.faults.to_list()] == [1]


def test_tolerated_annotations(tmp_path, write_coco):
    beyond = SQUARE | {"bbox": [-5, 30, 20, 20]}
    flat = SQUARE | {"bbox": [3, 3, 0, 7]}
    parts = SQUARE | {"segmentation": [[1, 1, 2, 2], *SQUARE["segmentation"]]}
    write_coco(tmp_path, {"a.png": [beyond, flat, parts, SQUARE | {"bbox": [-0.5, 0, 3, 3]}]})
    data = Coco(tmp_path, masks=True)
    assert data[0]["boxes"].tolist() == [[0, 30, 15, 40], [10, 5, 30, 15], [0, 0, 2.5, 3]]
    assert data[0]["masks"].sum(dim=(1, 2)).tolist() == [200] * 3
    faults = {fault["kind"]: fault for fault in data.faults.to_list()}
    assert set(faults) == {
        "boxes reach beyond their image",
        "boxes without area, left out",
        "polygons of fewer than 3 points, left out",
    }
    assert not any(fault["fatal"] for fault in faults.values())


def test_several_faults_are_counted(tmp_path, write_coco):
    write_coco(tmp_path, {"a.png": [SQUARE | {"category_id": 1}] * 3 + [SQUARE | {"bbox": []}]})
    with pytest.raises(UserError, match=r"annotation 1 is of category 1.*and 3 more faults.*data check"):
        Coco(tmp_path)
    faults = Coco(tmp_path, strict=False).faults
    assert faults.count("unknown categories") == 3
    assert faults.sentences(fatal=True)[0].startswith("unknown categories: 3 in all, first: annotation 1")


def change(path, edit):
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["images"].append(d["images"][0] | {"file_name": "b.png"}), "a.png and b.png have the same id 10"),
        (lambda d: d["images"].append({"id": 5, "file_name": "c.png", "width": 6, "height": 4}), "c.png is listed but"),
        (lambda d: d["images"].append({"id": "x", "file_name": "b.png"}), "has the id 'x'; ids are whole numbers"),
        (lambda d: d["images"].append({"id": 5, "file_name": "b.png"}), "has height None and width None"),
        (lambda d: d["images"].append({"id": 5}), "has the file_name None; it takes a path"),
        (lambda d: d["annotations"].append(d["annotations"][0]), "annotation 1 is listed twice"),
        (lambda d: d["annotations"][0].update(id=[1]), r"has the id \[1\]; ids are whole numbers"),
        (lambda d: d["images"].append(5), "image entry 2 is 5, no mapping"),
        (lambda d: d["annotations"].append("x"), "annotation number 2 is 'x'"),
        (lambda d: d.pop("annotations"), "no list 'annotations'.* found: images, categories"),
        (lambda d: d.update(categories=[]), "list no category"),
        (lambda d: d["categories"].append({"id": 2, "name": "x"}), "two categories of id 2"),
        (lambda d: d["categories"].append({"id": 9}), "a category without"),
    ],
)
def test_faulty_documents(tmp_path, write_coco, edit, message):
    write_coco(tmp_path, {"a.png": [SQUARE], "b.png": [SQUARE]})
    change(tmp_path / "annotations" / "instances_train.json", edit)
    with pytest.raises(UserError, match=message):
        Coco(tmp_path)


def test_images_that_are_missing_are_left_out_with_their_annotations(tmp_path, write_coco):
    write_coco(tmp_path, {"a.png": [SQUARE], "b.png": [SQUARE | {"bbox": [0, 0, 1, 1]}]})
    (tmp_path / "images" / "train" / "a.png").unlink()
    data = Coco(tmp_path, strict=False)
    assert data.ids == ("b",)
    assert data[0]["boxes"].tolist() == [[0, 0, 1, 1]]
    assert [fault["kind"] for fault in data.faults.to_list()] == ["image files missing"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [', "is damaged, cut off or no json"),
        (b"\xff\xfe\x00", "is damaged, cut off or no json"),
        (b"[1, 2]", "found: list"),
        (b"[" * 200_000, "is damaged, cut off or no json"),
    ],
)
def test_broken_json(tmp_path, write_coco, content, message):
    write_coco(tmp_path, {"a.png": []})
    (tmp_path / "annotations" / "instances_train.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        Coco(tmp_path)


def test_broken_and_exchanged_images_are_named_when_read(tmp_path, write_coco):
    write_coco(tmp_path, {name: [SQUARE] for name in ("a.png", "b.jpg", "c.png", "d.png")})
    data, folder = Coco(tmp_path), tmp_path / "images" / "train"
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:100])
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.open(folder / "b.jpg").save(folder / "b.jpg", exif=exif)
    Image.new("RGB", (30, 20)).save(folder / "c.png")
    Image.new("RGB", (40, 60)).save(folder / "d.png")
    messages = (
        "cannot read image .*a.png",
        "b.jpg is 40x60 .* EXIF rotation",
        "c.png is 30x20 .* correct the size",
        "d.png is 40x60 .* exchange width and height",
    )
    for index, message in enumerate(messages):
        with pytest.raises(UserError, match=message):
            data[index]


def test_layouts(tmp_path, write_coco):
    write_coco(tmp_path / "flat", {"a.png": [SQUARE]})
    official = tmp_path / "official"
    official.mkdir()
    (tmp_path / "flat" / "images" / "train").rename(official / "train2017")
    (official / "annotations").mkdir()
    file = official / "annotations" / "instances_train2017.json"
    (tmp_path / "flat" / "annotations" / "instances_train.json").rename(file)
    assert Coco(official)[0]["id"] == "a"
    (official / "train2017" / "_annotations.coco.json").write_bytes(file.read_bytes())
    (official / "train2017").rename(tmp_path / "train")
    assert Coco(tmp_path)[0]["id"] == "a"
    given = {"images": "{split}", "annotations": "official/annotations/instances_{split}2017.json"}
    assert Coco(tmp_path, **given).file == file
    with pytest.raises(UserError, match=r"no annotations of split 'val'.*name the file with annotations="):
        Coco(tmp_path, split="val")
    with pytest.raises(UserError, match="pictures is not a folder"):
        Coco(tmp_path, images="pictures")


def test_folders_inside_the_folder_of_images(tmp_path, write_coco):
    write_coco(tmp_path, {"a.png": [SQUARE]})
    folder = tmp_path / "images" / "train"
    (folder / "town").mkdir()
    (folder / "a.png").rename(folder / "town" / "a.b.png")
    change(
        tmp_path / "annotations" / "instances_train.json",
        lambda d: d["images"][0].update(file_name="town/a.b.png"),
    )
    assert Coco(tmp_path)[0]["id"] == "town/a.b"


def test_it_is_quick(tmp_path, write_coco):
    """COCO's 860,000 annotations have to be checked in seconds: here some of them."""
    many = [SQUARE | {"bbox": [k % 50, k % 30, 5, 5]} for k in range(500)]
    write_coco(tmp_path, {f"{number}.png": many for number in range(20)})
    start = time.process_time()
    data = Coco(tmp_path, masks=True)
    assert len(data.table) == 10_000
    assert time.process_time() - start < 2


real = pytest.mark.skipif(not (REAL / "coco128").is_dir(), reason="coco128 and pennfudan are not at DENSEVIT_TEST_DATA")


@real
@pytest.mark.parametrize(
    ("name", "split", "images", "objects", "crowd", "classes", "empty"),
    [
        ("pennfudan", "train", 120, 290, 0, 1, 0),
        ("pennfudan", "val", 50, 133, 0, 1, 0),
        ("coco128", "train", 100, 746, 6, 69, 2),
        ("coco128", "val", 28, 205, 2, 45, 0),
    ],
)
def test_real_data_has_the_documented_numbers(name, split, images, objects, crowd, classes, empty):
    data = Coco(REAL / name, split=split)
    assert (len(data), len(data.table), data.faults.to_list()) == (images, objects, [])
    found = [data.table.objects(number, size=data.entries[number].size) for number in range(len(data))]
    assert sum(int(item.iscrowd.sum()) for item in found) == crowd
    assert len({label for item in found for label in item.labels.tolist()}) == classes
    assert sum(len(item) == 0 for item in found) == empty
    listed = {"pennfudan": [1]}.get(name) or [
        int(line.split()[0]) for line in (REAL / name / "classes.txt").read_text().splitlines()
    ]
    assert list(data.category_ids) == listed


@real
@pytest.mark.parametrize(("name", "split", "step"), [("pennfudan", "val", 10), ("coco128", "val", 4)])
def test_real_samples_are_those_of_pycocotools(name, split, step):
    from pycocotools.coco import COCO

    data = Coco(REAL / name, split=split, masks=True)
    reference = COCO(REAL / name / "annotations" / f"instances_{split}.json")
    for index in range(0, len(data), step):
        item = data[index]
        annotations = reference.imgToAnns[item["image_id"]]
        assert [data.category_ids[k] for k in item["labels"]] == [a["category_id"] for a in annotations]
        boxes = np.array([a["bbox"] for a in annotations]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(item["boxes"], boxes)
        assert item["area"].tolist() == [a["area"] for a in annotations]
        assert item["masks"].sum(dim=(1, 2)).tolist() == [a["area"] for a in annotations]
        for mask, annotation in zip(item["masks"].numpy(), annotations, strict=True):
            np.testing.assert_array_equal(mask, reference.annToMask(annotation))
