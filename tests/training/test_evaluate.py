"""Scoring a trained model: the class lists have to agree."""

import pytest

from densevit.errors import UserError
from densevit.training.evaluate import check_classes


def test_class_lists_must_agree():
    check_classes(("a", "b"), ("a", "b"), data_name="mine")
    with pytest.raises(UserError, match="the model knows 2 classes but data set 'mine' has 3"):
        check_classes(("a", "b"), ("a", "b", "c"), data_name="mine")
    with pytest.raises(UserError, match="class 1 is 'b' for the model but 'c' in data set 'mine'"):
        check_classes(("a", "b"), ("a", "c"), data_name="mine")
