"""The one error a user is meant to read, and the sentence for a name that does not exist."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """A mistake in what the user gave: one clear sentence with the offending value and the fix.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown_name(kind: str, name: object, options: Iterable[str]) -> UserError:
    """Build the error for a `name` that is not among `options`: near matches first, else every option.

    >>> str(unknown_name("data set", "scene", ["scenes", "camvid"]))
    "unknown data set 'scene'; did you mean 'scenes'?"
    """
    known = sorted(options)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
    if near:
        return UserError(f"unknown {kind} {name!r}; did you mean {' or '.join(map(repr, near))}?")
    return UserError(f"unknown {kind} {name!r}; choose one of: {', '.join(known) or '(none)'}")


def some_of(values: Sequence[object], most: int = 5) -> str:
    """The first few in a sentence.

    >>> some_of(["cat", "dog", "owl"], most=2)
    'cat, dog, ...'
    """
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")


def check_whole_numbers(**values: object) -> None:
    """UserError unless every value is a whole number of at least 1; the keywords are what the user calls them."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{name} must be a whole number of at least 1, not {value!r}")


def check_positive_numbers(**values: object) -> None:
    """UserError unless every value is a number above 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise UserError(f"{name} must be a number above 0, not {value!r}")
