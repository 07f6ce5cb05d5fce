"""Name -> model. One plain dict per kind; the only lookup by string in the package."""

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from densevit.errors import UserError, check_whole_numbers, unknown_name
from densevit.models.detector_catalog import DETECTOR_KINDS, DETECTORS, find_detector
from densevit.models.encoder_names import ENCODERS, check_plain_vit, check_pyramid
from densevit.models.encoders import build_timm, create_vit
from densevit.models.hlg import HLG, HLG_VARIANTS
from densevit.models.hlg_ablations import FULL_MODEL, create_hlg_step
from densevit.models.layers import NormName
from densevit.models.position import PositionResize
from densevit.models.pyramid_segmenter import LISTED, create_pyramid_segmenter
from densevit.models.segmenter import Segmenter
from densevit.models.setr import SETR_DECODERS, auxiliary_blocks, build_setr_parts, mla_blocks
from densevit.models.vit import PrefixTokens, ViTEncoder


def create_setr(
    decoder: str,
    encoder: str,
    *,
    num_classes: int,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int = 3,
    pretrained: bool = False,
    auxiliary: bool = True,
    norm: NormName = "batch",
    channels: int = 256,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    decoder_dropout: float = 0.0,
    prefix_tokens: PrefixTokens | None = None,
    position_resize: PositionResize = "bilinear",
    grad_checkpointing: bool = False,
    encoder_args: Mapping[str, Any] | None = None,
    decoder_args: Mapping[str, Any] | None = None,
) -> Segmenter:
    """SETR (Sec. 3.2, 3.4): `decoder` "naive", "pup" or "mla" on `encoder`, a name of `ENCODERS` or any timm plain ViT.

    `image_size` (H, W) is the grid at which positions are learned, any size runs. `auxiliary` adds the paper's
    auxiliary heads (training only). `channels` is the decoder's width (256). `prefix_tokens` None means the official
    code's choice: the class token alone for Naive and PUP on ViT and DeiT, none for MLA; all for other encoders.
    `decoder_args`: `num_upsamplings` (PUP), `classifier_kernel_size` and `align_corners` (MLA).
    """
    size = _checked_size(image_size)
    check_whole_numbers(channels=channels)
    vit = create_vit(
        ENCODERS.get(encoder, encoder),
        image_size=size,
        in_channels=in_channels,
        pretrained=pretrained,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        position_resize=position_resize,
        encoder_args=encoder_args,
    )
    depth = len(vit.blocks)
    blocks = mla_blocks(depth) if decoder == "mla" else (depth,)
    aux_blocks = () if not auxiliary else blocks if decoder == "mla" else auxiliary_blocks(decoder, depth)
    out_blocks = tuple(sorted({*blocks, *aux_blocks}))
    papers_own = encoder in ENCODERS and isinstance(vit, VisionTransformer)
    default_prefix: PrefixTokens = "all" if not papers_own else "none" if decoder == "mla" else "class"
    vit_encoder = ViTEncoder(
        vit, out_blocks=out_blocks, prefix_tokens=prefix_tokens or default_prefix, position_resize=position_resize
    )
    vit_encoder.set_grad_checkpointing(grad_checkpointing)
    neck, head, aux_heads = build_setr_parts(
        decoder,
        embed_dim=vit_encoder.embed_dim,
        blocks=out_blocks,
        aux_blocks=aux_blocks,
        num_classes=num_classes,
        channels=channels,
        norm=norm,
        dropout=decoder_dropout,
        decoder_args=decoder_args or {},
    )
    return Segmenter(
        vit_encoder,
        head,
        num_classes=num_classes,
        in_channels=in_channels,
        size_multiple=vit_encoder.patch_size,
        neck=neck,
        auxiliary_heads=aux_heads,
    )


def _checked_size(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """(H, W) of a number or a pair; UserError for anything but whole pixels of at least 1."""
    if image_size is None:
        return None
    sides = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        raise UserError(f"image_size must be height and width of at least 1 pixel, or one number, not {image_size!r}")
    return sides[0], sides[1]


def _setr_builder(decoder: str, encoder: str) -> Callable[..., nn.Module]:
    def build(**kwargs: Any) -> nn.Module:
        return create_setr(decoder, encoder, **kwargs)

    build.__signature__ = inspect.signature(create_setr)  # type: ignore[attr-defined]
    return build


def _pyramid_builder(decoder: str, encoder: str) -> Callable[..., nn.Module]:
    def build(**kwargs: Any) -> nn.Module:
        return create_pyramid_segmenter(decoder, encoder, **kwargs)

    build.__signature__ = inspect.signature(create_pyramid_segmenter)  # type: ignore[attr-defined]
    return build


def _hlg_builder(name: str) -> Callable[..., nn.Module]:
    def build(*, step: str = FULL_MODEL, **kwargs: Any) -> nn.Module:
        return create_hlg_step(step, name, **kwargs)

    own = inspect.signature(build).parameters["step"]
    build.__signature__ = inspect.Signature([*inspect.signature(HLG).parameters.values(), own])  # type: ignore[attr-defined]
    return build


def _timm_builder(name: str) -> Callable[..., nn.Module]:
    def build(*, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        model: nn.Module = build_timm(name, pretrained=pretrained, **kwargs)
        return model

    return build


SEGMENTERS: dict[str, Callable[..., nn.Module]] = {
    **{
        f"setr_{decoder}_{encoder}": _setr_builder(decoder, encoder)
        for decoder in SETR_DECODERS
        for encoder in ENCODERS
    },
    **{
        f"{decoder}_{encoder}": _pyramid_builder(decoder, encoder)
        for decoder, encoders in LISTED.items()
        for encoder in encoders
    },
}
CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {name: _hlg_builder(name) for name in HLG_VARIANTS}
KINDS: dict[str, dict[str, Callable[..., nn.Module]]] = {
    "segmentation": SEGMENTERS,
    "detection": DETECTORS,
    "classification": CLASSIFIERS,
}
ON_ANY_PYRAMID = ("upernet", "semantic_fpn", "fcn", *DETECTOR_KINDS)
"""What `create_model` puts on any pyramid of timm, as `upernet_NAME`."""


def list_models(pattern: str = "*", *, kind: str | None = None) -> list[str]:
    """Names `create_model` knows, sorted; `pattern` is a shell wildcard ("setr_pup_*"), `kind` a task.

    Beyond the list, `setr_{naive,pup,mla}_NAME` works for any plain ViT that timm knows as NAME, `upernet_NAME` and the
    others of `ON_ANY_PYRAMID` for any of its pyramids, and NAME by itself is timm's classifier.
    """
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind of model", kind, KINDS)
    kinds = KINDS if kind is None else {kind: KINDS[kind]}
    return sorted(name for models in kinds.values() for name in models if fnmatch(name, pattern))


def model_kind(name: str) -> str:
    """The task of a model name: "segmentation" ... UserError for an unknown name."""
    return _find(name)[0]


def create_model(name: str, *, num_classes: int | None = None, **kwargs: Any) -> nn.Module:
    """Build a model by name; `kwargs` are those of its builder: `create_setr` for SETR on a plain ViT,
    `create_pyramid_segmenter` for other segmenters, `HLG` for HLG (and `step`, one of Table 14), timm's own else.

    With `features_only=True` there are no classes to name. The result carries `config`, the arguments that rebuild it.
    UserError for an unknown name or argument, or no `num_classes`.

    >>> model = create_model("setr_pup_vit_tiny", num_classes=11, image_size=(360, 480))
    >>> model = create_model("resnet50", num_classes=11)
    >>> backbone = create_model("hlg_small", features_only=True)
    """
    _, build = _find(name)
    parameters = inspect.signature(build).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for key in kwargs:
        if key not in known and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise unknown_name(f"argument of {name}", key, known)
    if num_classes is not None:
        check_whole_numbers(num_classes=num_classes)
        kwargs = {"num_classes": num_classes, **kwargs}
    elif not kwargs.get("features_only"):
        raise UserError(f"{name!r} needs num_classes, the number of classes: create_model({name!r}, num_classes=10)")
    model = build(**kwargs)
    setattr(model, "config", {"name": name, **kwargs})  # noqa: B010 (not a submodule)
    return model


def takes_argument(name: str, argument: str) -> bool:
    """Whether `create_model(name, ...)` names `argument`. UserError for an unknown model."""
    return argument in inspect.signature(_find(name)[1]).parameters


def _find(name: str) -> tuple[str, Callable[..., nn.Module]]:
    for kind, models in KINDS.items():
        if name in models:
            return kind, models[name]
    setr = re.fullmatch(r"setr_(naive|pup|mla)_(.+)", name)
    if setr:
        check_plain_vit(name, setr[2])
        return "segmentation", _setr_builder(setr[1], setr[2])
    pyramid = re.fullmatch(rf"({'|'.join(ON_ANY_PYRAMID)})_(.+)", name)
    if pyramid:
        check_pyramid(name, pyramid[2])
        detector = find_detector(name)
        return ("detection", detector) if detector else ("segmentation", _pyramid_builder(pyramid[1], pyramid[2]))
    if timm.is_model(name):
        return "classification", _timm_builder(name)
    near = difflib.get_close_matches(name, sorted({*list_models(), *timm.list_models()}), n=3, cutoff=0.6)
    if not near:
        raise UserError(f"unknown model {name!r}; `densevit models` lists those with a name of ours")
    raise unknown_name("model", name, near)
