"""YOLO's text files: boxes and polygons in shares of the image, and one sentence for each broken line."""

import numpy as np
import pytest
from PIL import Image

from densevit.data.yolo import Yolo, bounds, labels_beside, parse_line
from densevit.errors import UserError


def folder(root, labels, *, split="train", names="names: [cat, dog]\n", size=(60, 40)):
    """images/ and labels/ of {name: text}, None for an image without a text file."""
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    if names:
        (root / "data.yaml").write_text(names)
    for name, text in labels.items():
        Image.new("RGB", size).save(root / "images" / split / f"{name}.jpg")
        if text is not None:
            (root / "labels" / split / f"{name}.txt").write_text(text)
    return root


def test_boxes_and_polygons(tmp_path):
    text = "1 0.5 0.5 0.5 0.25\n\n0 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n"
    data = Yolo(folder(tmp_path, {"a": text, "b": None, "c": ""}))
    assert (data.ids, data.classes, data.category_ids) == (("a", "b", "c"), ("cat", "dog"), (1, 2))
    item = data[0]
    np.testing.assert_allclose(item["boxes"], [[15, 15, 45, 25], [6, 8, 30, 24]], rtol=1e-6)
    assert item["labels"].tolist() == [1, 0]
    assert item["image_id"] == 0
    np.testing.assert_allclose(item["area"], [300, 384], rtol=1e-6)
    assert not item["iscrowd"].any()
    assert "masks" not in item
    assert data[1]["boxes"].shape == data[2]["boxes"].shape == (0, 4)
    assert Yolo(tmp_path, keep_empty=False).ids == ("a",)
    with pytest.raises(UserError, match="line 1: a box has no mask; set masks=False"):
        Yolo(tmp_path, masks=True)


def test_masks(tmp_path):
    data = Yolo(folder(tmp_path, {"a": "0 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n", "b": None}), masks=None)
    assert data.has_masks
    item = data[0]
    expected = np.zeros((1, 40, 60), dtype=bool)
    expected[0, 8:24, 6:30] = True
    np.testing.assert_array_equal(item["masks"], expected)
    assert item["area"].tolist() == [384]
    assert data[1]["masks"].shape == (0, 40, 60)
    (tmp_path / "labels" / "train" / "b.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert not Yolo(tmp_path, masks=None).has_masks


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.5", "4 numbers; a box has 5"),
        ("0 0.5 0.5 0.5 0.5 0.9", "6 numbers; a box has 5"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 numbers"),
        ("0", "1 numbers"),
        ("cat 0.5 0.5 0.5 0.5", "something else than numbers"),
        ("2 0.5 0.5 0.5 0.5", r"class 2, but with 2 classes a class is 0 \.\. 1"),
        ("-1 0.5 0.5 0.5 0.5", "class -1"),
        ("0.5 0.5 0.5 0.5 0.5", "class 0.5"),
        ("nan 0.5 0.5 0.5 0.5", "class nan"),
        ("0 30 0.5 0.5 0.5", r"value 30 is outside 0 \.\. 1; divide x"),
        ("0 0.5 -0.1 0.5 0.5", r"value -0\.1 is outside"),
        ("0 0.5 nan 0.5 0.5", "value nan is outside"),
        ("0 0.5 inf 0.5 0.5", "value inf is outside"),
    ],
)
def test_faulty_lines(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        parse_line(line, num_classes=2)
    good = "1 0.5 0.5 0.5 0.25\n"
    folder(tmp_path, {"a": f"{good}{line}\n{good}"})
    with pytest.raises(UserError, match=r"a\.txt, line 2: "):
        Yolo(tmp_path)
    data = Yolo(tmp_path, strict=False)
    assert data[0]["labels"].tolist() == [1, 1]
    assert data.faults.count("lines") == 1


def test_values_a_little_outside_are_clipped():
    assert parse_line("1.0 0.5 0.5 1.005 1", num_classes=2) == (1, [0.5, 0.5, 1.005, 1.0])
    assert bounds([0.5, 0.5, 1.005, 1.0]) == (0, 0, 1, 1)
    assert bounds([0.9, 0.5, 0.4, 0.2]) == pytest.approx((0.7, 0.4, 1, 0.6))
    assert bounds([-0.005, 0.5, 0.4, 0.2, 0.3, 0.9]) == (0, 0.2, 0.4, 0.9)


def test_tolerated(tmp_path):
    folder(tmp_path, {"a": "0 0.5 0.5 0 0.5\n0 0.5 0.5 0.1 0.1\n"})
    (tmp_path / "labels" / "train" / "z.txt").write_text("")
    (tmp_path / "labels" / "train" / "classes.txt").write_text("cat\ndog\n")
    data = Yolo(tmp_path)
    assert len(data[0]["boxes"]) == 1
    assert {fault["kind"]: fault["count"] for fault in data.faults.to_list()} == {
        "boxes without area, left out": 1,
        "label files without image": 1,
    }


def test_layouts(tmp_path):
    folder(tmp_path / "a", {"x": "0 0.5 0.5 0.5 0.5"}, split="train2017")
    assert len(Yolo(tmp_path / "a")) == 1
    (tmp_path / "b" / "valid").mkdir(parents=True)
    for kind in ("images", "labels"):
        (tmp_path / "a" / kind / "train2017").rename(tmp_path / "b" / "valid" / kind)
    (tmp_path / "b" / "classes.txt").write_text("cat\n")
    data = Yolo(tmp_path / "b", split="val")
    assert (data.classes, len(data[0]["boxes"])) == (("cat",), 1)
    assert len(Yolo(tmp_path, split="x", images="b/valid/images", classes=["cat"])) == 1
    assert labels_beside(tmp_path / "images" / "images" / "x") == tmp_path / "images" / "labels" / "x"
    with pytest.raises(UserError, match=r"no images of split 'train'.*name the folder with images="):
        Yolo(tmp_path / "b")
    (tmp_path / "b" / "valid" / "labels").rename(tmp_path / "b" / "valid" / "other")
    with pytest.raises(UserError, match="labels is not a folder"):
        Yolo(tmp_path / "b", split="val")


@pytest.mark.parametrize(
    ("names", "classes", "expected"),
    [
        ("nc: 2\nnames: ['a', 'b']\n", None, ("a", "b")),
        ("names:\n  0: person\n  1: bicycle\n", None, ("person", "bicycle")),
        ("names: [1, 2]\n", None, ("1", "2")),
        ("names: [x]\n", ["u", "v"], ("u", "v")),
        ("foo: 1\n", None, "has no names"),
        ("nc: 3\nnames: [a, b]\n", None, "nc is 3 but names has 2 entries"),
        ("names: {0: a, 2: b}\n", None, "must be numbered 0 .. 1"),
        ("names: []\n", None, "names must list the classes"),
        ("names: [a\n", None, "cannot read"),
        ("names: [a, a]\n", None, "names 'a' twice"),
        (None, None, "no class names"),
    ],
)
def test_class_names(tmp_path, names, classes, expected):
    folder(tmp_path, {"a": "0 0.5 0.5 0.5 0.5"}, names=names)
    if isinstance(expected, tuple):
        assert Yolo(tmp_path, classes=classes).classes == expected
        assert Yolo(tmp_path, classes=classes or tmp_path / "data.yaml").classes == expected
    else:
        with pytest.raises(UserError, match=expected):
            Yolo(tmp_path, classes=classes)


def test_label_file_of_bytes(tmp_path):
    folder(tmp_path, {"a": None})
    (tmp_path / "labels" / "train" / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"a\.txt: .*codec"):
        Yolo(tmp_path)
