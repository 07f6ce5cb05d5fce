"""Loading a classifier's weights as a start for training: our own models, or a state dict of the same architecture."""

from pathlib import Path

from torch import Tensor, nn

from densevit.errors import UserError
from densevit.weights.pretrained import load_pretrained
from densevit.weights.report import LoadReport


def load_classifier(model: nn.Module, source: str | Path, *, min_matched: float = 0.95) -> LoadReport:
    """Load a trained densevit classifier into `model`, in place; a last layer for other classes stays as it is.

    UserError where less than `min_matched` of the model's values, but for its last layer, are in the source.
    """
    theirs, info = load_pretrained(source)
    if info.task != "classification":
        raise UserError(f"{source} is a model for {info.task}; give a classifier to start one from")
    own, tensors = model.state_dict(), theirs.state_dict()
    usable = {name: value for name, value in tensors.items() if name in own and own[name].shape == value.shape}
    body = [name for name in own if not (name in tensors and _is_other_head(own[name], tensors[name]))]
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


def _is_other_head(own: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors differ in nothing but the number of classes."""
    return own.ndim > 0 and own.shape[1:] == theirs.shape[1:] and own.shape[0] != theirs.shape[0]
