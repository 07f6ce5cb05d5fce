"""Loading weights into a model, from any source this package knows, with a report.

    report = load_encoder(model, "timm:vit_large_patch16_384.augreg_in21k_ft_in1k")
    report = load_encoder(model, "jx_vit_large_p16_384-b3be5167.pth")      # or its URL, or the original .npz
    report = load_segmenter(model, "SETR_PUP_cityscapes.pth")              # the authors' or mmsegmentation's
    print(report)

Nothing is changed unless the weights fit; too few of them is an error, never a silent start from scratch.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from densevit.errors import UserError, unknown_name
from densevit.models.detector import Detector
from densevit.models.position import PositionResize
from densevit.models.pyramid import PyramidEncoder
from densevit.models.segmenter import Segmenter
from densevit.models.vit import ViTEncoder
from densevit.weights.fit import fit_encoder, fit_pyramid
from densevit.weights.pyramid import norms_of_maps
from densevit.weights.report import LoadReport
from densevit.weights.sources import Found, find_encoder, find_segmenter


def load_encoder(
    model: nn.Module, source: str | Path, *, mode: PositionResize = "bilinear", min_matched: float = 0.95
) -> LoadReport:
    """Load an encoder's weights into the encoder of a `Segmenter` or `Detector`, or an encoder itself, in place.

    `source` is a timm name ("timm:NAME" or NAME), "hf-hub:user/model", or the path or URL of a file: the original
    ViT's .npz, a timm, DeiT, BEiT or transformers state dict, a SETR checkpoint (the authors', mmsegmentation's, ours).
    For a pyramid encoder: a timm name, a state dict in timm's naming, or what `densevit fit` has written (file or run
    folder) of a classifier, segmenter or detector with the same encoder; the norms of its maps may be missing there.
    Positions are resized by `mode`: "bilinear" as in the paper's code, "bicubic" as in timm. UserError where the
    source cannot be read, a shape cannot be made to fit, or less than `min_matched` of the encoder's tensors, or of
    their values, is in the source.
    """
    encoder = model.encoder if isinstance(model, Segmenter | Detector) else model
    found = find_encoder(source, encoder=encoder)
    tensors, resized = _fit(encoder, found, mode)
    own = _expected(encoder)
    _check_shapes(own, tensors, found.origin)
    report = _report(own, tensors, resized, found)
    optional = norms_of_maps(encoder) if isinstance(encoder, PyramidEncoder) else ()
    needed = [name for name in own if not name.startswith(optional)]
    filled, matched = ([name for name in names if name in tensors] for names in (own, needed))
    share = sum(own[name].numel() for name in matched) / sum(own[name].numel() for name in needed)
    if min(len(matched) / len(needed), share) < min_matched:
        raise UserError(
            f"{found.origin} has only {len(matched)} of the encoder's {len(needed)} tensors "
            f"({share:.0%} of its values), without {', '.join(report.missing[:3])} ...; "
            "give weights of the same architecture"
        )
    encoder.load_state_dict({name: tensors[name] for name in filled}, strict=False)
    return report


def load_segmenter(model: Segmenter, source: str | Path, *, mode: PositionResize = "bilinear") -> LoadReport:
    """Load a whole segmenter's weights in place: the authors' SETR, mmsegmentation's SETR, or ours (path or URL).

    Auxiliary heads may be absent, everything else must be there. UserError else, or where the checkpoint is for another
    number of classes or another decoder.
    """
    found = find_segmenter(source)
    inner = {name.removeprefix("encoder."): t for name, t in found.tensors.items() if name.startswith("encoder.")}
    inner, changes = _fit(model.encoder, found._replace(tensors=inner), mode)
    tensors = found.tensors | {f"encoder.{name}": tensor for name, tensor in inner.items()}
    own = _expected(model)
    _check_classifier(own, tensors, found.origin)
    report = _report(own, tensors, {f"encoder.{name}": change for name, change in changes.items()}, found)
    missing = [name for name in report.missing if not name.startswith("auxiliary_heads.")]
    if missing:
        raise UserError(
            f"{found.origin} lacks {len(missing)} of the model's tensors ({', '.join(missing[:3])} ...); "
            "build the model with the encoder and decoder the checkpoint was trained with"
        )
    _check_shapes(own, tensors, found.origin)
    model.load_state_dict({name: tensors[name] for name in own if name in tensors}, strict=False)
    return report


def _fit(encoder: nn.Module, found: Found, mode: PositionResize) -> tuple[dict[str, Tensor], dict[str, str]]:
    if mode not in ("bilinear", "bicubic"):
        raise unknown_name("position resize mode", mode, ("bilinear", "bicubic"))
    if isinstance(encoder, PyramidEncoder):
        return fit_pyramid(encoder, found.tensors)
    if not isinstance(encoder, ViTEncoder):
        return found.tensors, {}
    return fit_encoder(encoder, found.tensors, mode=mode, grid=found.grid, own_grid_first=found.is_ours)


def _expected(module: nn.Module) -> dict[str, Tensor]:
    """What a source must have: all but the norms' counters of steps."""
    return {name: tensor for name, tensor in module.state_dict().items() if not _is_counter(name)}


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _report(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], resized: Mapping[str, str], found: Found
) -> LoadReport:
    return LoadReport(
        source=found.origin,
        matched=[name for name in own if name in tensors and name not in resized],
        resized=[f"{name} {change}" for name, change in resized.items()],
        missing=[name for name in own if name not in tensors],
        unexpected=[*found.unused, *(name for name in tensors if name not in own and not _is_counter(name))],
    )


def _check_shapes(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], origin: str) -> None:
    for name, tensor in tensors.items():
        if name in own and own[name].shape != tensor.shape:
            raise UserError(
                f"{origin} is of another architecture: {name} is {tuple(tensor.shape)} there "
                f"and {tuple(own[name].shape)} in the model; "
                "build the model with the arguments of theirs (encoder_args), or give other weights"
            )


def _check_classifier(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], origin: str) -> None:
    name = "decoder.classifier.weight"
    if name not in own or name not in tensors:
        return
    theirs, ours = tensors[name].shape, own[name].shape
    if theirs[0] != ours[0]:
        raise UserError(f"{origin} has {theirs[0]} classes, the model {ours[0]}; build it with num_classes={theirs[0]}")
    if theirs[2:] != ours[2:]:
        raise UserError(
            f"{origin} has a {theirs[2]}x{theirs[3]} classifier, the model {ours[2]}x{ours[3]}; build it with "
            f"decoder_args={{'classifier_kernel_size': {theirs[2]}}}"
        )
