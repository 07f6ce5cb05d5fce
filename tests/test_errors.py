"""The sentences that errors share."""

import doctest

from densevit import errors


def test_the_examples_hold():
    assert doctest.testmod(errors).failed == 0


def test_the_first_few_of_many():
    assert errors.some_of([1, 2, 3]) == "1, 2, 3"
    assert errors.some_of(range(9)) == "0, 1, 2, 3, 4, ..."
    assert errors.some_of([7, 8], most=1) == "7, ..."
