"""`densevit profile`, called as the command line does."""

import argparse
import json

import pytest

from densevit.cli import profile
from densevit.errors import UserError


def call(*args):
    parser = argparse.ArgumentParser()
    profile.add_parser(parser.add_subparsers())
    options = parser.parse_args(["profile", *args])
    return options.run(options)


def test_json(capsys):
    assert (
        call("setr_naive_vit_tiny", "--size", "64", "96", "--num-classes", "7", "--count-only", "--format", "json") == 0
    )
    values = json.loads(capsys.readouterr().out)
    assert values["params"] < values["params_with_auxiliary"]
    assert values["macs"] > 1e8
    assert values["image_size"] == [64, 96]
    assert values["num_classes"] == 7
    assert values["latency_ms"] is None
    assert values["peak_memory_mb"] is None


def test_measures_in_a_process_of_its_own(capsys):
    assert (
        call("setr_naive_vit_tiny", "--size", "40", "56", "--num-classes", "3", "--device", "cpu", "--repeats", "1")
        == 0
    )
    text = capsys.readouterr().out
    assert "images/s" in text
    assert "MiB" in text


def test_a_failed_measurement_keeps_the_counts(capsys, monkeypatch):
    def fail(*_, **__):
        raise UserError("it did not fit")

    monkeypatch.setattr("densevit.benchmark.measure.measure_in_fresh_process", fail)
    assert call("setr_naive_vit_tiny", "--size", "32", "48", "--format", "json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["latency_ms"] is None
    assert "not measured: it did not fit" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["setr_pup_vit_tny"], "did you mean 'setr_pup_vit_tiny'"),
        (["setr_pup_vit_tiny", "--size", "0", "5"], "at least 1"),
        (["setr_pup_vit_tiny", "--num-classes", "0"], "num_classes"),
        (["setr_pup_vit_tiny", "--dtype", "float23"], "did you mean 'float32'"),
    ],
)
def test_mistakes_are_named(args, message):
    with pytest.raises(UserError, match=message):
        call(*args)
