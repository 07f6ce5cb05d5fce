"""CamVid: on a tiny tree of the same shape, and on the real files where they are."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit.data.camvid import CLASSES, PALETTE, CamVid
from densevit.data.check import check_dataset
from densevit.errors import UserError

REAL = Path(os.environ.get("DENSEVIT_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "camvid"


def tree(root):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(2):
            ids = np.full((6, 8), 5 * index, dtype=np.uint8)
            ids[0] = 255
            Image.fromarray(ids).save(root / "masks" / split / f"0001_{index}.png")
            Image.new("RGB", (8, 6)).save(root / "images" / split / f"0001_{index}.jpg")


def test_tiny_tree(tmp_path):
    tree(tmp_path)
    data = CamVid(tmp_path, split="val")
    assert data.ids == ("0001_0", "0001_1")
    assert data[1]["mask"].unique().tolist() == [5, 255]
    assert check_dataset(data).ok
    with pytest.raises(UserError, match="no split 'valid'"):
        CamVid(tmp_path, split="valid")
    assert len(CLASSES) == len(set(PALETTE)) == 11


@pytest.mark.skipif(not REAL.is_dir(), reason="CamVid is not at DENSEVIT_TEST_DATA")
def test_real_files():
    train, val = CamVid(REAL), CamVid(REAL, split="val")
    assert (len(train), len(val)) == (367, 101)
    assert not set(train.ids) & set(val.ids)
    item = val[0]
    assert item["image"].shape == (3, 360, 480)
    assert item["mask"].shape == (360, 480)
