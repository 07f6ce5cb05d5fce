"""Evaluation settings: values that cannot segment an image are refused by name."""

import pytest

from densevit.errors import UserError
from densevit.inference.settings import InferenceConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resize": (2048, 0)}, r"eval.resize must have sides of at least 1 pixel, not \(2048, 0\)"),
        ({"crop_size": (0, 512)}, r"eval.crop_size must have sides of at least 1 pixel, not \(0, 512\)"),
        ({"scales": (1.0, 0.04)}, r"eval.scales must be numbers in \[0.05, 10\], not \(1.0, 0.04\)"),
        ({"scales": (11.0,)}, "eval.scales"),
        ({"scales": (float("nan"),)}, "eval.scales"),
        ({"scales": ()}, "eval.scales"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        InferenceConfig(**values)


def test_limits_are_allowed():
    config = InferenceConfig(resize=(1, 1), crop_size=(1, 2), stride=(1, 1), scales=(0.05, 10.0))
    assert config.averages
