"""ImageNet-1k and ImageNet-V2 in their published folders, made of a few pixels."""

import pytest
from PIL import Image

from densevit.data.catalog import create_dataset
from densevit.data.imagenet import imagenet_1k_ids, readable_class
from densevit.errors import UserError

FISH, SHARK, CAT = "n01440764", "n01484850", "n02123045"


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path, format="JPEG")


def test_imagenet(tmp_path):
    for name in (SHARK, FISH, CAT):
        put(tmp_path / "train" / name / f"{name}_10.JPEG")
    put(tmp_path / "val" / SHARK / "ILSVRC2012_val_00000293.JPEG")
    train, val = (create_dataset("imagenet", root=tmp_path, split=split) for split in ("train", "val"))
    assert train.classes == val.classes == (FISH, SHARK, CAT)
    assert train.labels == (0, 1, 2)
    assert val.labels == (1,)
    assert val[0]["image"].shape == (3, 6, 8)
    assert val[0]["id"] == f"val/{SHARK}/ILSVRC2012_val_00000293.JPEG"


def test_imagenet_mistakes(tmp_path):
    put(tmp_path / "val" / "ILSVRC2012_val_00000293.JPEG")
    with pytest.raises(UserError, match=r"no folder train/"):
        create_dataset("imagenet", root=tmp_path)
    with pytest.raises(UserError, match="sort its images into folders named by WordNet id"):
        create_dataset("imagenet", root=tmp_path, split="val")
    put(tmp_path / "train" / "cats" / "a.JPEG")
    with pytest.raises(UserError, match=r"not named by a WordNet id .*'image_folder'"):
        create_dataset("imagenet", root=tmp_path)


@pytest.mark.parametrize("inside", ["", "imagenetv2-matched-frequency-format-val/"])
def test_imagenet_v2_folders_are_numbers_not_text(tmp_path, inside):
    for number in (0, 2, 10, 999):
        put(tmp_path / f"{inside}{number}" / "a.jpeg")
    data = create_dataset("imagenet_v2", root=tmp_path, split="val")
    assert data.classes == imagenet_1k_ids()
    assert data.labels == (0, 2, 10, 999)
    with pytest.raises(UserError, match="its split is 'val', not 'train'"):
        create_dataset("imagenet_v2", root=tmp_path)
    put(tmp_path / f"{inside}1000" / "a.jpeg")
    with pytest.raises(UserError, match="named 0 to 999"):
        create_dataset("imagenet_v2", root=tmp_path, split="val")


def test_names():
    ids = imagenet_1k_ids()
    assert len(ids) == 1000
    assert list(ids) == sorted(ids)
    assert ids[281] == CAT
    assert readable_class(CAT) == "tabby (n02123045)"
    assert readable_class("n99999999") == "n99999999"
    assert readable_class("horse") == "horse"
