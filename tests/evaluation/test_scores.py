"""Scores as JSON, table and CSV."""

import json
import math

import numpy as np
import pytest

from densevit.errors import UserError
from densevit.evaluation.scores import SegmentationScores, read_confusion_csv, write_confusion_csv

CONFUSION = np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]], dtype=np.int64)


@pytest.fixture
def scores():
    return SegmentationScores.from_confusion(CONFUSION, classes=("sky", "road, paved", "[bold]bus"))


def test_json_has_no_nan(scores):
    plain = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert plain["mean_iou"] == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert plain["classes"][2] == {"name": "[bold]bus", "iou": None, "accuracy": None, "support": 0}
    assert plain["confusion"] == CONFUSION.tolist()


def test_table_shows_every_class_and_a_dash_for_the_absent(scores):
    lines = scores.table().splitlines()
    row = next(line for line in lines if "[bold]bus" in line)  # a name is text, not markup
    assert row.split()[1:] == ["-", "-", "0"]
    assert any("sky" in line and "75.00" in line for line in lines)
    assert "mIoU 62.50 %" in lines[-1]
    assert "pixel accuracy 80.00 %" in lines[-1]


def test_csv_round_trip(scores, tmp_path):
    path = tmp_path / "matrice é.csv"
    write_confusion_csv(scores, path)
    assert path.read_text(encoding="utf-8").splitlines()[1] == "sky,6,2,0"
    again = read_confusion_csv(path)
    assert again.classes == scores.classes
    assert (again.confusion == CONFUSION).all()


def test_other_csv_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,x\n")
    with pytest.raises(UserError, match="not a confusion matrix"):
        read_confusion_csv(path)


def test_majority_baseline(scores):
    # Always "sky": 8 of 10 pixels right, the road never; the bus is in neither.
    assert scores.majority_mean_iou == pytest.approx((8 / 10 + 0) / 2)


def test_nothing_counted_gives_nan():
    empty = SegmentationScores.from_confusion(np.zeros((2, 2), dtype=np.int64), classes=("a", "b"))
    assert math.isnan(empty.mean_iou)
    assert math.isnan(empty.pixel_accuracy)
    assert empty.to_dict()["mean_iou"] is None
