"""Telling the kinds of weights apart by the names in them, and giving them our names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from densevit.errors import UserError
from densevit.models.pyramid import PyramidEncoder
from densevit.models.vit import ViTEncoder
from densevit.weights.files import read_tensors
from densevit.weights.huggingface_vit import from_huggingface_vit, is_huggingface_vit
from densevit.weights.jax_vit import from_jax_vit, is_jax_vit
from densevit.weights.mmsegmentation import from_mmsegmentation, is_mmsegmentation
from densevit.weights.official_setr import from_official_setr, is_official_setr
from densevit.weights.pretrained import find_model
from densevit.weights.pyramid import describe_model, fetch_timm_pyramid, from_classifier
from densevit.weights.timm_vit import fetch_timm, from_timm_vit, is_timm_name, is_timm_vit

Named = tuple[dict[str, Tensor], list[str]]
Kind = tuple[str, Callable[[Mapping[str, Tensor]], bool], Callable[[Mapping[str, Tensor]], Named]]


class Found(NamedTuple):
    """Weights in our naming."""

    tensors: dict[str, Tensor]
    unused: list[str]
    """Names in the source that stand for nothing here."""
    origin: str
    """The source and its kind, for people."""
    is_ours: bool = False
    grid: tuple[int, int] | None = None
    """The (H, W) patch grid of the position embedding, where it is known."""


def is_ours(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(("encoder.", "model.encoder.")) for name in tensors)


def from_ours(tensors: Mapping[str, Tensor]) -> Named:
    """Our own segmenter, as saved, or under "model." among other things as Lightning does."""
    if not any(name.startswith("model.encoder.") for name in tensors):
        return dict(tensors), []
    unused = [name for name in tensors if not name.startswith("model.")]
    return {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}, unused


SEGMENTERS: tuple[Kind, ...] = (
    ("mmsegmentation", is_mmsegmentation, from_mmsegmentation),
    ("official SETR", is_official_setr, from_official_setr),
    ("densevit", is_ours, from_ours),
)
CLASSIFIERS: tuple[Kind, ...] = (  # converted to timm's naming
    ("original ViT", is_jax_vit, from_jax_vit),
    ("transformers", is_huggingface_vit, from_huggingface_vit),
    ("timm", is_timm_vit, lambda tensors: (dict(tensors), [])),
)


def find_segmenter(source: str | Path) -> Found:
    """A segmenter's tensors in our naming. UserError where `source` is none of the kinds known."""
    tensors = read_tensors(source)
    found = _as_segmenter(tensors, source)
    if found is not None:
        return found
    raise UserError(
        f"{source} is no segmenter of the authors' SETR, mmsegmentation or densevit; it holds "
        f"{', '.join(list(tensors)[:3])} ... (for a classifier's weights use load_encoder)"
    )


def find_encoder(source: str | Path, *, encoder: nn.Module) -> Found:
    """An encoder's tensors in the naming of `encoder`, from a timm name, a file, a run folder or a URL."""
    name = str(source).removeprefix("timm:")
    if isinstance(encoder, ViTEncoder) and is_timm_name(source):
        tensors, grid = fetch_timm(name)
        return Found(*from_timm_vit(tensors, encoder), f"{name} (timm)", grid=grid)
    if isinstance(encoder, PyramidEncoder) and is_timm_name(source):
        return Found(*from_classifier(fetch_timm_pyramid(name), encoder), f"{name} (timm)")
    if Path(source).expanduser().is_dir():
        source = find_model(source)
    tensors = read_tensors(source)
    found = _as_segmenter(tensors, source)
    if found is not None:
        inner = {name.removeprefix("encoder."): t for name, t in found.tensors.items() if name.startswith("encoder.")}
        rest = [name for name in found.tensors if not name.startswith("encoder.")]
        return found._replace(tensors=inner, unused=found.unused + rest)
    if isinstance(encoder, PyramidEncoder):
        return Found(*from_classifier(tensors, encoder), f"{source}{describe_model(source)}", is_ours=True)
    for kind, is_kind, convert in CLASSIFIERS:
        if isinstance(encoder, ViTEncoder) and is_kind(tensors):
            in_timm, unused = convert(tensors)
            named, later = from_timm_vit(in_timm, encoder)
            return Found(named, unused + later, f"{source} ({kind})")
    return Found(tensors, [], str(source), is_ours=True)  # an encoder of ours, or nothing that fits


def _as_segmenter(tensors: Mapping[str, Tensor], source: str | Path) -> Found | None:
    for kind, is_kind, convert in SEGMENTERS:
        if is_kind(tensors):
            return Found(*convert(tensors), f"{source} ({kind})", is_ours=kind == "densevit")
    return None
