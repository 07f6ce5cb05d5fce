"""ADE20K on a tiny tree of the published shape."""

import numpy as np
import pytest
from PIL import Image

from densevit.data.ade20k import ADE20K, CLASSES, PALETTE
from densevit.data.catalog import create_dataset
from densevit.data.check import check_dataset
from densevit.errors import UserError


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    for split, short in (("training", "train"), ("validation", "val")):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for index in range(3):
            ids = np.full((5, 7), 50 * index, dtype=np.uint8)
            ids[0, :2] = (0, 150)
            Image.fromarray(ids).save(root / "annotations" / split / f"ADE_{short}_0000000{index}.png")
            Image.new("L", (7, 5)).save(root / "images" / split / f"ADE_{short}_0000000{index}.jpg")  # some are grey
    return root


def test_zero_is_ignored_and_the_rest_moves_down(root):
    data = create_dataset("ade20k", root=root, split="val")
    assert data.ids[1] == "ADE_val_00000001"
    assert data[0]["mask"].unique().tolist() == [149, 255]
    assert data[2]["mask"].unique().tolist() == [99, 149, 255]
    assert data[2]["mask"][0, :2].tolist() == [255, 149]
    assert data[0]["image"].shape == (3, 5, 7)


def test_published_classes():
    assert len(CLASSES) == len(set(CLASSES)) == len(PALETTE) == 150
    assert (CLASSES[0], CLASSES[12], CLASSES[20], CLASSES[149]) == ("wall", "person", "car", "flag")
    assert (PALETTE[0], PALETTE[12], PALETTE[149]) == ((120, 120, 120), (150, 5, 61), (92, 0, 255))


def test_check(root):
    assert check_dataset(ADE20K(root)).ok
    ids = np.full((5, 7), 201, dtype=np.uint8)
    Image.fromarray(ids).save(root / "annotations" / "training" / "ADE_train_00000001.png")
    report = check_dataset(ADE20K(root))
    assert list(report.outside) == [200]
    with pytest.raises(UserError, match="has label 200 but there are 150 classes"):
        ADE20K(root)[1]


def test_wrong_places(root):
    with pytest.raises(UserError, match="root must be the folder ADEChallengeData2016"):
        ADE20K(root.parent)
    with pytest.raises(UserError, match="unknown split 'training'; did you mean 'train'"):
        ADE20K(root, split="training")
