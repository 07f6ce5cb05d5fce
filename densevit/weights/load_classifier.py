"""Loading a classifier's weights as a start for training: our own models, or a state dict of the same architecture."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from densevit.errors import UserError
from densevit.weights.pretrained import load_pretrained
from densevit.weights.report import LoadReport


def load_classifier(
    model: nn.Module, source: str | Path, *, classes: Sequence[str] | None = None, min_matched: float = 0.95
) -> LoadReport:
    """Load a trained densevit classifier into `model`, in place; a last layer for other classes stays as it is.

    `classes` are the names of those that `model` is for, in order; None: any names, if there are as many.

    UserError where less than `min_matched` of the model's values, but for its last layer, are in the source.
    """
    theirs, info = load_pretrained(source)
    if info.task != "classification":
        raise UserError(f"{source} is a model for {info.task}; give a classifier to start one from")
    own, tensors = model.state_dict(), theirs.state_dict()
    head, same = _of_head(model), classes is None or tuple(classes) == info.classes
    fits = {name for name, value in tensors.items() if name in own and own[name].shape == value.shape}
    usable = {name: value for name, value in tensors.items() if name in fits and (same or name not in head)}
    body = [name for name in own if name not in head]
    share = sum(own[name].numel() for name in body if name in usable) / sum(own[name].numel() for name in body)
    if share < min_matched:
        raise UserError(
            f"{source} ({info.model['name']}) fills only {share:.0%} of the model; give the same architecture"
        )
    model.load_state_dict(usable, strict=False)
    return LoadReport(
        source=str(source),
        matched=list(usable),
        resized=[],
        missing=[name for name in own if name not in usable],
        unexpected=[name for name in tensors if name not in own],
    )


def _of_head(model: nn.Module) -> set[str]:
    """Names of the tensors of the last layer: timm's models may have two of them."""
    found = model.get_classifier()  # type: ignore[operator]
    heads = found if isinstance(found, tuple) else (found,)
    return {
        f"{place}.{name}" for place, module in model.named_modules() if module in heads for name in module.state_dict()
    }
