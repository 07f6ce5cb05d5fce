"""A folder for each class: layouts, class lists, splits by ratio, and what a user can get wrong."""

import pytest
from PIL import Image

from densevit.data.catalog import create_dataset
from densevit.errors import UserError


def write_images(folder, number, *, size=(6, 4), suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        Image.new("RGB", size, (index, 2, 3)).save(folder / f"{index}{suffix}")


@pytest.fixture
def root(tmp_path):
    for split, number in (("train", 3), ("val", 1)):
        for name in ("dog", "cat"):
            write_images(tmp_path / split / name, number)
    return tmp_path


def test_classes_are_the_folders_by_name(root):
    data = create_dataset("image_folder", root=root)
    assert data.classes == ("cat", "dog")
    assert data.labels == (0, 0, 0, 1, 1, 1)
    sample = data[4]
    assert sample["image"].shape == (3, 4, 6)
    assert sample["image"][:, 0, 0].tolist() == [1, 2, 3]
    assert (sample["label"], sample["id"]) == (1, "train/dog/1.png")
    assert [s["label"] for s in create_dataset("image_folder", root=root, split="val")] == [0, 1]


def test_a_class_list_sets_the_order_and_may_be_long(root):
    (root / "classes.txt").write_text("dog\ncat\n")
    assert create_dataset("image_folder", root=root).labels == (0, 0, 0, 1, 1, 1)
    assert create_dataset("image_folder", root=root)[0]["id"] == "train/dog/0.png"
    names = ["dog", "cat", *(f"more{i}" for i in range(400))]
    assert len(create_dataset("image_folder", root=root, split="val", classes=names).classes) == 402
    with pytest.raises(UserError, match=r"no folder for 400 of 402 classes, such as 'more0'"):
        create_dataset("image_folder", root=root, classes=names)


def test_val_without_a_class_keeps_the_ids(root):
    for path in (root / "val" / "cat").iterdir():
        path.unlink()
    (root / "val" / "cat").rmdir()
    data = create_dataset("image_folder", root=root, split="val")
    assert data.classes == ("cat", "dog")
    assert data.labels == (1,)
    assert data.empty_classes == ("cat",)


def test_split_by_ratio_is_complete_and_balanced(tmp_path):
    for name, number in (("a", 10), ("b", 20), ("c", 2)):
        write_images(tmp_path / name, number)
    parts = [create_dataset("image_folder", root=tmp_path, split=split, val_ratio=0.2) for split in ("train", "val")]
    assert [list(part.labels).count(k) for part in parts for k in range(3)] == [8, 16, 1, 2, 4, 1]
    assert sorted(parts[0].ids + parts[1].ids) == sorted(create_dataset("image_folder", root=tmp_path, split="all").ids)
    other = create_dataset("image_folder", root=tmp_path, split="val", val_ratio=0.2, seed=1)
    assert other.ids != parts[1].ids
    with pytest.raises(UserError, match=r"no train/ and val/ folders; make them, or set val_ratio"):
        create_dataset("image_folder", root=tmp_path)


def test_an_empty_class_folder(root):
    (root / "train" / "owl").mkdir()
    (root / "train" / "owl" / "notes.txt").write_text("none yet")
    with pytest.raises(UserError, match=r"class folder .*owl has no image .*strict=false"):
        create_dataset("image_folder", root=root)
    data = create_dataset("image_folder", root=root, strict=False)
    assert data.classes == ("cat", "dog", "owl")
    assert data.empty_classes == ("owl",)


@pytest.mark.parametrize(
    ("break_it", "split", "message"),
    [
        (
            lambda root: write_images(root / "val" / "dgo", 1),
            "val",
            r"unknown class 'dgo'; did you mean 'dog'\?; rename",
        ),
        (lambda root: None, "test", r"has no split 'test'; it has: train, val"),
    ],
)
def test_folders_that_do_not_fit(root, break_it, split, message):
    break_it(root)
    with pytest.raises(UserError, match=message):
        create_dataset("image_folder", root=root, split=split)


def test_no_images_and_no_folders(tmp_path):
    with pytest.raises(UserError, match="holds no folders"):
        create_dataset("image_folder", root=tmp_path, split="all")
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="no images in the class folders"):
        create_dataset("image_folder", root=tmp_path, split="all", strict=False)


def test_an_image_that_is_text(root):
    (root / "train" / "cat" / "0.png").write_text("I am no picture")
    data = create_dataset("image_folder", root=root)
    with pytest.raises(UserError, match=r"cannot read image .*train/cat/0\.png"):
        data[0]
