"""Files for the test servers, read back as they would."""

import numpy as np
import pytest
from PIL import Image

from densevit.data.cityscapes import CLASSES
from densevit.errors import UserError
from densevit.evaluation.submission import check_classes, submission_writer, write_ade20k, write_cityscapes


def test_ade20k_adds_one(tmp_path):
    labels = np.array([[0, 1, 149], [7, 7, 7]])
    path = write_ade20k(labels, stem="ADE_test_00000001", folder=tmp_path / "new")
    assert path.name == "ADE_test_00000001.png"
    image = Image.open(path)
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[1, 2, 150], [8, 8, 8]]


def test_cityscapes_writes_published_ids(tmp_path):
    labels = np.arange(19, dtype=np.uint8).reshape(1, 19)
    path = write_cityscapes(labels, stem="berlin_000000_000019_leftImg8bit", folder=tmp_path)
    ids = np.asarray(Image.open(path))[0].tolist()
    # road, sidewalk, building, ..., train, motorcycle, bicycle
    assert ids[:3] == [7, 8, 11]
    assert ids[-3:] == [31, 32, 33]
    assert len(set(ids)) == 19


@pytest.mark.parametrize(("name", "value"), [("ade20k", 150), ("cityscapes", 19), ("cityscapes", 255)])
def test_classes_of_another_set_are_refused(tmp_path, name, value):
    labels = np.array([[0, value]])
    with pytest.raises(UserError, match=f"street: predicted class {value}"):
        submission_writer(name)(labels, stem="street", folder=tmp_path)


def test_unknown_server_is_named():
    with pytest.raises(UserError, match="did you mean 'ade20k'"):
        submission_writer("ade20")


def test_models_with_other_classes_are_refused():
    check_classes("cityscapes", [name.title() for name in CLASSES], expected=CLASSES)
    check_classes("cityscapes", [str(index) for index in range(19)], expected=CLASSES)
    check_classes("ade20k", ["anything"] * 150)
    with pytest.raises(UserError, match="ade20k needs a model of 150 classes, not 19"):
        check_classes("ade20k", CLASSES)
    swapped = ("Sidewalk", "Road", *CLASSES[2:])
    with pytest.raises(UserError, match="has 'Sidewalk' as class 1, the model as class 0"):
        check_classes("cityscapes", swapped, expected=CLASSES)
