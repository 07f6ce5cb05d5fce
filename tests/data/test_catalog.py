"""Data sets by name."""

import pytest

from densevit.data.catalog import DATASETS, create_dataset, dataset_options, list_datasets
from densevit.errors import UserError


def test_every_name_has_a_class_with_the_common_arguments():
    assert list_datasets() == sorted(DATASETS)
    assert {"scenes", "folder", "camvid"} <= set(list_datasets())
    for name in list_datasets():
        assert not {"root", "split", "transform"} & set(dataset_options(name))


def test_arguments_reach_the_data_set():
    data = create_dataset("scenes", split="val", image_size=(32, 48), num_images=2, transform=lambda item: item["id"])
    assert list(data) == ["00000", "00001"]


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("scene", {}, "unknown data set 'scene'; did you mean 'scenes'"),
        ("scenes", {"imgsize": 3}, "has no option 'imgsize'; did you mean 'image_size'"),
        ("scenes", {"root": "x"}, "reads no files; leave out root"),
        ("camvid", {}, "needs root"),
        ("camvid", {"root": "/nowhere"}, "is not a folder"),
    ],
)
def test_mistakes(name, args, message):
    with pytest.raises(UserError, match=message):
        create_dataset(name, **args)
