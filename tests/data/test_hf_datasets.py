"""Data sets of the Hugging Face library, saved to a folder by the test."""

import numpy as np
import pytest
from PIL import Image

from densevit.data.catalog import create_dataset
from densevit.data.check import check_dataset
from densevit.errors import UserError

CLASSES = ["road", "car", "sky"]


def test_what_must_be_given():
    with pytest.raises(UserError, match="needs root: a name on the hub, or a folder"):
        create_dataset("huggingface", classes=CLASSES)
    with pytest.raises(UserError, match="needs classes: a class list file"):
        create_dataset("huggingface", root="somewhere")


@pytest.fixture
def saved(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra hf")
    masks = [Image.fromarray(np.full((4, 6), value, dtype=np.uint8)) for value in (0, 2)]
    pictures = [Image.fromarray(np.full((4, 6), 9 * value, dtype=np.uint8)) for value in (1, 2)]
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": pictures, "annotation": masks}, features=features)
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "all")
    rows.save_to_disk(tmp_path / "one")
    return tmp_path


@pytest.mark.parametrize("folder", ["all", "one"])
def test_samples(saved, folder):
    data = create_dataset("huggingface", root=saved / folder, classes=CLASSES)
    assert len(data) == 2
    assert data[1]["image"].shape == (3, 4, 6)
    assert data[1]["image"].unique().tolist() == [18]
    assert data[1]["mask"].unique().tolist() == [2]
    assert data.classes == tuple(CLASSES)
    assert check_dataset(data).ok
    reduced = create_dataset("huggingface", root=saved / folder, classes=CLASSES[1:], reduce_zero_label=True)
    assert [item["mask"].unique().tolist() for item in reduced] == [[255], [1]]


def test_mistakes(saved):
    with pytest.raises(UserError, match="has no split 'val'; it has: train"):
        create_dataset("huggingface", root=saved / "all", split="val", classes=CLASSES)
    with pytest.raises(UserError, match="among the columns image, annotation; set mask_column"):
        create_dataset("huggingface", root=saved / "all", classes=CLASSES, mask_column="segments")
    with pytest.raises(UserError, match=r"mask 000001 has label 2"):
        create_dataset("huggingface", root=saved / "one", classes=CLASSES[:2])[1]
