"""Cityscapes on a tiny tree of the published shape: fine, coarse, converted masks."""

import numpy as np
import pytest
from PIL import Image

from densevit.data.catalog import create_dataset
from densevit.data.check import check_dataset
from densevit.data.cityscapes import CLASSES, PALETTE, Cityscapes, to_train_ids
from densevit.errors import UserError
from densevit.labels import CITYSCAPES_LABEL_IDS

IDS = np.array([[7, 8, 26, 33, 0, 3], [1, 9, 10, 24, 29, 30]], dtype=np.uint8)
TRAIN_IDS = [[0, 1, 13, 18, 255, 255], [255, 255, 255, 11, 255, 255]]


def add(root, kind, split, name, ids, *, ending="labelIds"):
    city = name.split("_")[0]
    for folder in (root / "leftImg8bit" / split / city, root / kind / split / city):
        folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 2)).save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
    Image.fromarray(ids).save(root / kind / split / city / f"{name}_{kind}_{ending}.png")


@pytest.fixture
def root(tmp_path):
    for split, name in (("train", "aachen_000000_000019"), ("train", "zurich_000001_000019"), ("val", "ulm_0_1")):
        add(tmp_path, "gtFine", split, name, IDS)
        city = name.split("_")[0]
        for ending in ("color", "instanceIds"):
            Image.new("RGB", (6, 2)).save(tmp_path / "gtFine" / split / city / f"{name}_gtFine_{ending}.png")
    add(tmp_path, "gtCoarse", "train_extra", "bamberg_000000_000000", IDS)
    return tmp_path


def test_label_ids_become_train_ids(root):
    data = create_dataset("cityscapes", root=root)
    assert data.ids == ("aachen/aachen_000000_000019", "zurich/zurich_000001_000019")
    assert data[1]["mask"].tolist() == TRAIN_IDS
    assert len(Cityscapes(root, split="val")) == 1
    assert check_dataset(data).ok


def test_coarse(root):
    data = Cityscapes(root, split="train_extra", coarse=True)
    assert data[0]["mask"].tolist() == TRAIN_IDS
    with pytest.raises(UserError, match="unknown split of gtFine 'train_extra'; did you mean 'train'"):
        Cityscapes(root, split="train_extra")
    with pytest.raises(UserError, match=r"gtCoarse.* is missing"):
        Cityscapes(root, split="val", coarse=True)


def test_masks_that_are_already_converted(tmp_path):
    add(tmp_path, "gtFine", "train", "aachen_0_0", np.array(TRAIN_IDS, dtype=np.uint8), ending="labelTrainIds")
    assert Cityscapes(tmp_path)[0]["mask"].tolist() == TRAIN_IDS


def test_published_table():
    assert len(CLASSES) == len(PALETTE) == len(CITYSCAPES_LABEL_IDS) == 19
    table = to_train_ids(np.arange(256, dtype=np.uint8))
    assert [int(np.flatnonzero(table[:34] == k)[0]) for k in range(19)] == list(CITYSCAPES_LABEL_IDS)
    assert (table[:34] == 255).sum() == 34 - 19
    assert table[40] == 40  # not published: stays outside the class list and is reported
    assert (CLASSES[0], CLASSES[10], CLASSES[18]) == ("road", "sky", "bicycle")
    assert PALETTE[13] == (0, 0, 142)


def test_missing_mask_is_named(root):
    next((root / "gtFine" / "val").rglob("*_labelIds.png")).unlink()
    next((root / "gtFine" / "train" / "aachen").rglob("*_labelIds.png")).unlink()
    with pytest.raises(UserError, match=r"1 of 2 images have no mask \(.*aachen_000000_000019_leftImg8bit\.png"):
        Cityscapes(root)
    assert not check_dataset(Cityscapes(root, strict=False)).ok
