"""Folders of images and masks: every layout and mask kind gives the same samples; what is missing is named."""

import numpy as np
import pytest
from PIL import Image

from densevit.data.folder import Folder, lower_ids
from densevit.errors import UserError

IDS = {name: np.full((4, 6), index % 3, dtype=np.uint8) for index, name in enumerate("abcdefghij")}
COLORS = {0: (255, 0, 0), 1: (0, 255, 0), 2: (0, 0, 255), 255: (0, 0, 0)}


def write(image_folder, mask_folder, names, *, kind="index", suffix=""):
    image_folder.mkdir(parents=True, exist_ok=True)
    mask_folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        ids = IDS[name].copy()
        ids[0, 0] = 255
        Image.fromarray(np.full((4, 6, 3), 50, dtype=np.uint8)).save(image_folder / f"{name}.jpg")
        if kind == "rgb":
            mask = Image.fromarray(np.array([[COLORS[v] for v in row] for row in ids.tolist()], dtype=np.uint8))
        else:
            mask = Image.fromarray(ids)
            if kind == "palette":
                mask.putpalette([5, 5, 5] * 256)
        mask.save(mask_folder / f"{name}{suffix}.png")


def classes(root, text="road\ncar\nsky\n"):
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text(text)


def check(data, names):
    assert data.ids == tuple(names)
    assert data.classes == ("road", "car", "sky")
    for item in data:
        expected = IDS[item["id"].split("/")[-1]].copy()
        expected[0, 0] = 255
        np.testing.assert_array_equal(item["mask"].numpy(), expected)
        assert item["image"].shape == (3, 4, 6)


@pytest.mark.parametrize("layout", ["images/SPLIT", "SPLIT/images"])
@pytest.mark.parametrize("kind", ["index", "palette", "rgb"])
def test_split_folders(tmp_path, layout, kind):
    root = tmp_path / "Meine Bilder ä"
    for split, names in (("train", "abc"), ("val", "de")):
        images = root / layout.replace("SPLIT", split)
        write(images, root / layout.replace("SPLIT", split).replace("images", "masks"), names, kind=kind)
    classes(root, "road 255 0 0\ncar 0 255 0\nsky 0 0 255\nignore 0 0 0\n")
    check(Folder(root), "abc")
    check(Folder(root, split="val"), "de")
    assert Folder(root).mask_path(1).name == "b.png"
    with pytest.raises(UserError, match=r"'test'|images/test/"):
        Folder(root, split="test")


def test_list_files(tmp_path):
    write(tmp_path / "images", tmp_path / "masks", "abcd")
    classes(tmp_path)
    (tmp_path / "train.txt").write_text("# chosen by hand\nc.jpg\n\na\n")
    (tmp_path / "val.txt").write_text("d\n")
    check(Folder(tmp_path), "ac")
    check(Folder(tmp_path, split="val"), "d")
    (tmp_path / "val.txt").write_text("d\nzebra.jpg\n")
    with pytest.raises(UserError, match=r"val\.txt lists 'zebra\.jpg', but there is no such image"):
        Folder(tmp_path, split="val")


def test_ratio(tmp_path):
    write(tmp_path / "images", tmp_path / "masks", "abcdefghij")
    classes(tmp_path)
    train, val = (Folder(tmp_path, split=split, val_ratio=0.3) for split in ("train", "val"))
    assert len(val) == 3
    assert sorted(train.ids + val.ids) == list("abcdefghij")
    assert Folder(tmp_path, split="val", val_ratio=0.3).ids == val.ids
    assert any(Folder(tmp_path, split="val", val_ratio=0.3, seed=s).ids != val.ids for s in range(1, 4))
    check(Folder(tmp_path, split="all"), "abcdefghij")
    for args, message in (
        ({}, r"write the image names of the split into train\.txt, or set val_ratio"),
        ({"val_ratio": 1.5}, r"val_ratio 1\.5"),
        ({"val_ratio": 0.3, "split": "test"}, "'train' and 'val'"),
    ):
        with pytest.raises(UserError, match=message):
            Folder(tmp_path, **args)


def test_mask_suffix_and_subfolders(tmp_path):
    write(tmp_path / "images" / "train" / "day 1", tmp_path / "masks" / "train" / "day 1", "ab", suffix="_mask")
    classes(tmp_path)
    check(Folder(tmp_path, mask_suffix="_mask"), ["day 1/a", "day 1/b"])
    with pytest.raises(UserError, match=r"none of the 2 images .*mask_suffix"):
        Folder(tmp_path)


def test_mask_format(tmp_path):
    write(tmp_path / "images" / "train", tmp_path / "masks" / "train", "a", kind="rgb")
    classes(tmp_path)
    with pytest.raises(UserError, match=r"a\.png holds colours"):
        Folder(tmp_path)[0]
    with pytest.raises(UserError, match="needs a class list with a colour for each class"):
        Folder(tmp_path, mask_format="color")
    with pytest.raises(UserError, match="did you mean 'color'"):
        Folder(tmp_path, mask_format="colour")
    classes(tmp_path, "road 255 0 0\ncar 0 255 0\nsky 0 0 254\n")
    with pytest.raises(UserError, match=r"a\.png has 1 pixels of 1 colours .* \(0, 0, 0\)"):
        Folder(tmp_path)[0]


def test_reduce_zero_label(tmp_path):
    ids = np.array([[0, 1, 2, 255]], dtype=np.uint8)
    assert lower_ids(ids, ignore_index=255).tolist() == [[255, 0, 1, 255]]
    assert lower_ids(ids.astype(np.int32) * 100, ignore_index=255).tolist() == [[255, 99, 199, 25499]]
    assert lower_ids(np.arange(256, dtype=np.uint8), ignore_index=255).tolist() == [255, *range(254), 255]
    write(tmp_path / "images" / "train", tmp_path / "masks" / "train", "ac")
    classes(tmp_path, "car\nsky\n")
    data = Folder(tmp_path, reduce_zero_label=True)
    assert data[0]["mask"].unique().tolist() == [255]
    assert data[1]["mask"].unique().tolist() == [1, 255]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"needs root, the folder that holds images/ and masks/"):
        Folder(None)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        Folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"write classes\.txt"):
        Folder(tmp_path)
    classes(tmp_path)
    with pytest.raises(UserError, match=r"has neither images/ nor train/images/"):
        Folder(tmp_path)
    (tmp_path / "images" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="has no masks"):
        Folder(tmp_path)
    (tmp_path / "masks" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no images in .* for split 'train'"):
        Folder(tmp_path)
    write(tmp_path / "images" / "train", tmp_path / "masks" / "train", "abc")
    (tmp_path / "masks" / "train" / "b.png").unlink()
    with pytest.raises(UserError, match=r"1 of 3 images have no mask \(.*b\.jpg\)"):
        Folder(tmp_path)
    data = Folder(tmp_path, strict=False)
    assert data.ids == ("a", "c")
    assert [path.name for path in data.images_without_mask] == ["b.jpg"]


def test_two_files_of_one_name(tmp_path):
    write(tmp_path / "images" / "train", tmp_path / "masks" / "train", "a")
    classes(tmp_path)
    Image.new("RGB", (6, 4)).save(tmp_path / "images" / "train" / "a.png")
    with pytest.raises(UserError, match="two images have the name 'a'"):
        Folder(tmp_path)
