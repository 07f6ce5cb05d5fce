"""Renaming by a table of patterns, shared by the sources."""

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
"""A pattern for the whole old name and the new name, as `re.sub` takes it."""


def rename(tensors: Mapping[str, Tensor], rules: Sequence[Rule]) -> tuple[dict[str, Tensor], list[str]]:
    """Apply the first rule that fits each name; returns the renamed tensors and the names that no rule fits."""
    renamed, unused = {}, []
    for name, tensor in tensors.items():
        for pattern, new in rules:
            match = re.fullmatch(pattern, name)
            if match:
                renamed[match.expand(new) if isinstance(new, str) else new(match)] = tensor
                break
        else:
            unused.append(name)
    return renamed, unused


def fold_conv_biases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move the bias of a conv "X.i" before a batch norm "X.(i+1)" into the norm's running mean: m' = m - b.

    The same function, as the norm subtracts its mean; our convs before norms have no bias.
    """
    folded = dict(tensors)
    for name, bias in tensors.items():
        match = re.fullmatch(r"(.+)\.(\d+)\.bias", name)
        mean = match and f"{match[1]}.{int(match[2]) + 1}.running_mean"
        if mean in tensors:
            folded[mean] = tensors[mean] - bias
            del folded[name]
    return folded
