"""The words for a setting of the wrong type."""

import pytest

from densevit.annotations import describe
from densevit.errors import UserError
from densevit.training.config import SegmentationExperiment
from densevit.training.setting_errors import type_of
from densevit.training.settings import resolve, setting_keys


def test_every_setting_can_be_described():
    for key in setting_keys(SegmentationExperiment):
        assert "typing" not in describe(type_of(key, SegmentationExperiment))
        assert "<class" not in describe(type_of(key, SegmentationExperiment))
    assert type_of("train.num_steps", SegmentationExperiment) is int
    assert type_of("train.nothing", SegmentationExperiment) is None


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--train.num_steps=many", "train.num_steps must be a whole number, not 'many'"),
        ("--data.batch_size=2.5", "data.batch_size must be a whole number, not '2.5'"),
        ("--optim.optimizer=adam", "optim.optimizer must be sgd or adamw, not 'adam'"),
        ("--train.ema=yes", "train.ema must be a number or null, not 'yes'"),
        ("--eval.mode=slid", "eval.mode must be whole or slide, not 'slid'"),
        ("--data.crop_size=5", "data.crop_size must be 2 whole numbers such as [1,2], not '5'"),
        (
            "--loss.class_weights=balance",
            "loss.class_weights must be a list of numbers such as [1,2] or balanced or null, not 'balance'",
        ),
        ("--loss.terms.dice=much", "loss.terms.dice must be a number, not 'much'"),
        ("--data.args=3", "data.args must be names with values such as {name: 1}, not '3'"),
    ],
)
def test_sentences(argument, sentence):
    with pytest.raises(UserError) as error:
        resolve(recipe="demo", overrides=[argument])
    assert str(error.value) == sentence


def test_the_dictionary_itself_is_named_beside_its_values():
    with pytest.raises(UserError, match=r"model.args must be names with values such as \{name: 1\}, not '5'"):
        resolve(recipe="hlg_tiny_imagenet", overrides=["--model.args=5", "--model.args.depths=[1,1,1,1]"])
