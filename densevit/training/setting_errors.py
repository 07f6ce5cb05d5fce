"""What to say about a setting of the wrong type: the key, what it may be, what it was, in words."""

import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

from densevit.annotations import describe
from densevit.errors import UserError


def wrong_type(error: Exception, experiment_type: type[Any], *, given: Mapping[str, Any]) -> UserError:
    """The error for what the parser of settings has refused; `given` are the changed settings by dotted key."""
    message = " ".join(str(error).split())
    found = re.search(r'"([\w.]+)"', message)
    kind = found and type_of(found[1], experiment_type)
    if not found or kind is None:
        return UserError(message)
    key = found[1] if found[1] in given else next((key for key in given if key.startswith(found[1] + ".")), None)
    if not key:
        return UserError(message)
    if key != found[1]:  # one of the values of a dictionary
        kind = get_args(kind)[-1]
    return UserError(f"{key} must be {describe(kind)}, not {given[key]!r}")


def type_of(key: str, kind: Any) -> Any:
    """The annotation of a dotted key such as "train.num_steps"; None if there is none."""
    for name in key.split("."):
        if not is_dataclass(kind):
            return None
        kind = get_type_hints(kind).get(name)
    return kind
