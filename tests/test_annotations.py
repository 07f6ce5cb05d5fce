"""Annotations in words, and values held against them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from densevit.annotations import check_options, describe, fits
from densevit.data.catalog import DATASETS, create_dataset
from densevit.errors import UserError


def test_types_in_words():
    assert describe(int) == "a whole number"
    assert describe(float | None) == "a number or null"
    assert describe(bool | str) == "true or false or a word"
    assert describe(Literal["sgd", "adamw"]) == "sgd or adamw"
    assert describe(tuple[int, int]) == "2 whole numbers such as [1,2]"
    assert describe(tuple[float, ...] | None) == "a list of numbers such as [1,2] or null"
    assert describe(dict[str, float]) == "names with values such as {name: 1}"
    assert describe(str | Path | Sequence[str]) == "a word or a path or a list of words"


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (1, int, True), (True, int, False), (1.5, int, False), ("1", int, False),
        (1, float, True), (0.5, float | None, True), (None, float | None, True), ("abc", float | None, False),
        (True, bool, True), ("no", bool, False), (1, bool, False),
        ("a", str | Path | Sequence[str] | None, True), (["a"], str | Path | Sequence[str] | None, True),
        (5, str | Path | Sequence[str] | None, False), ({}, Mapping[str, int], True), ([], Mapping[str, int], False),
        ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False), ([1, 2], tuple[int, int], True),
        (3, Any, True), ([1, "b"], tuple[int, int], False), ([1], tuple[int, int], False), ([], Sequence[int], True),
        ([1, None], Sequence[int], False), ((1.5, 2), tuple[float, ...], True), (np.int64(3), int, True),
        (Path("a"), str, True),
    ],
)  # fmt: skip
def test_values(value, kind, expected):
    assert fits(value, kind) is expected


def test_options_of_data_sets(tmp_path):
    for name, options in (("image_folder", {"val_ratio": "abc"}), ("image_folder", {"strict": "maybe"})):
        with pytest.raises(UserError, match=rf"option '{next(iter(options))}' of data set 'image_folder' must be"):
            create_dataset(name, root=tmp_path, **options)
    for dataset in DATASETS.values():
        check_options("it", dataset, {})  # every constructor's annotations can be read
