"""Weights for a pyramid encoder: our HLG classifiers, timm's models by name or file, other models on the encoder."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from densevit.errors import UserError
from densevit.models.encoders import build_timm
from densevit.models.hlg import HLG
from densevit.models.pyramid import PYRAMIDS, PyramidEncoder, match_names
from densevit.weights.files import is_url
from densevit.weights.pretrained import read_info

BODY = "body."
NOT_OF_THE_ENCODER = (
    "num_classes",
    "features_only",
    "out_indices",
    "drop_rate",
    "drop_path_rate",
    "grad_checkpointing",
)


def from_classifier(tensors: Mapping[str, Tensor], encoder: PyramidEncoder) -> tuple[dict[str, Tensor], list[str]]:
    """A whole model's tensors (ours or timm's naming) in `encoder`'s naming, and the names not used.

    A pyramid encoder's own tensors, which begin with "body.", come back as they are.
    """
    if any(name.startswith("model.") for name in tensors):  # a Lightning checkpoint with other things beside the model
        tensors = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    if any(name.startswith(BODY) for name in tensors):
        return dict(tensors), []
    matched, unused = match_names(tensors, encoder.body.state_dict())
    return {BODY + name: tensor for name, tensor in matched.items()}, unused


def fetch_timm_pyramid(name: str) -> dict[str, Tensor]:
    """timm's weights of `name`, or of our short name, in timm's naming."""
    return dict(build_timm(PYRAMIDS.get(name, name), pretrained=True).state_dict())


def norms_of_maps(encoder: PyramidEncoder) -> tuple[str, ...]:
    """Beginnings of the names that other models on the encoder may lack: the norms of the maps they do not use."""
    return ("norms.", f"{BODY}norms.") if isinstance(encoder.body, HLG) else ("norms.",)


def first_convs(encoder: PyramidEncoder) -> tuple[str, ...]:
    """Names of the convolutions that read the image's bands."""
    if isinstance(encoder.body, HLG):
        return (f"{BODY}stem.0.conv.weight",)
    first = encoder.body.pretrained_cfg["first_conv"] or ()  # type: ignore[index]
    own = encoder.body.state_dict()
    kernels = {f"{name}.weight": next(iter(own.values())) for name in ([first] if isinstance(first, str) else first)}
    return tuple(BODY + name for name in match_names(kernels, own)[0])


def describe_model(source: str | Path) -> str:
    """What a file of ours says about the model in it, such as " (hlg_mobile, embed_dims=[16, 32])"; "" for others."""
    if is_url(source):
        return ""
    try:
        model = read_info(source).model
    except UserError:
        return ""
    args = {k: v for k, v in model.items() if k != "name" and k not in NOT_OF_THE_ENCODER}
    return f" ({', '.join([str(model['name']), *(f'{key}={value}' for key, value in args.items())])})"
