"""`densevit models`, called as the command line does."""

import argparse
import json

import pytest

from densevit.cli import models
from densevit.errors import UserError
from densevit.models.catalog import list_models


def call(*args):
    parser = argparse.ArgumentParser()
    models.add_parser(parser.add_subparsers())
    options = parser.parse_args(["models", *args])
    return options.run(options)


def test_json_lists_names_and_sizes(capsys):
    assert call("setr_*_vit_tiny", "--format", "json", "--num-classes", "5") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list_models("setr_*_vit_tiny")
    assert all(row["kind"] == "segmentation" and 0 < row["params"] < row["params_with_auxiliary"] for row in rows)


def test_a_part_of_a_name_is_enough(capsys):
    assert call("naive_vit_tiny") == 0
    out = capsys.readouterr().out
    assert "setr_naive_vit_tiny" in out
    assert "setr_pup" not in out


def test_no_match_is_an_error():
    with pytest.raises(UserError, match="unknown model 'setr_pup_vit_tinny'; did you mean 'setr_pup_vit_tiny'"):
        call("setr_pup_vit_tinny")
