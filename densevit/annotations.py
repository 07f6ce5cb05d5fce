"""Values that come from the command line or a file, held against the annotation of what takes them."""

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from densevit.errors import UserError

PLAIN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    Path: "a path",
    NoneType: "null",
}
SEVERAL = {int: "whole numbers", float: "numbers", str: "words"}


def check_options(owner: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """UserError for an option of another type than the parameter of `function`, or of a class's constructor."""
    hints = get_type_hints(function.__init__ if isinstance(function, type) else function)  # type: ignore[misc]
    for key, value in options.items():
        if key in hints and not fits(value, hints[key]):
            raise UserError(f"option {key!r} of {owner} must be {describe(hints[key])}, not {value!r}")


def fits(value: Any, kind: Any) -> bool:
    """Whether `value` may be a `kind`; a path may stand for a word, a list for a tuple, and what is not known fits."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return value in inner
    if kind is Any:
        return True
    if origin in (Sequence, tuple):
        if not isinstance(value, list | tuple):
            return False
        of_each = inner if origin is tuple and inner[-1] is not Ellipsis else inner[:1] * len(value)
        return len(value) == len(of_each) and all(map(fits, value, of_each))
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str | Path)
    kind = origin or kind
    return not isinstance(kind, type) or isinstance(value, kind)


def describe(kind: Any) -> str:
    """An annotation in words: `int | None` -> "a whole number or null"."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(describe(each) for each in inner)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is Sequence or (origin is tuple and inner[-1] is Ellipsis):
        example = "" if origin is Sequence else " such as [1,2]"
        return f"a list of {SEVERAL.get(inner[0], 'values')}{example}"
    if origin is tuple:
        return f"{len(inner)} {SEVERAL[inner[0]]} such as [{','.join('12345'[: len(inner)])}]"
    if kind is dict or origin in (dict, Mapping):
        return "names with values such as {name: 1}"
    return PLAIN.get(kind, str(kind))
