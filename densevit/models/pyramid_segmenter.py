"""Segmenters on a pyramid encoder: HLG, Swin, ResNet ... under a decoder that reads maps of several strides."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from densevit.errors import UserError, check_whole_numbers, unknown_name
from densevit.models.fcn import FCNHead
from densevit.models.hlg import HLG_VARIANTS
from densevit.models.hlg_decoder import HLGDecoder
from densevit.models.layers import NormName
from densevit.models.pyramid import PYRAMIDS, PyramidEncoder, create_pyramid
from densevit.models.segmenter import Segmenter
from densevit.models.semantic_fpn import SemanticFPNDecoder
from densevit.models.upernet import UperNetDecoder

PYRAMID_DECODERS: dict[str, type[nn.Module]] = {
    "setr_pup": HLGDecoder,
    "upernet": UperNetDecoder,
    "semantic_fpn": SemanticFPNDecoder,
    "fcn": FCNHead,
}
LISTED: dict[str, tuple[str, ...]] = {
    "setr_pup": tuple(HLG_VARIANTS),
    "upernet": tuple(PYRAMIDS),
    "semantic_fpn": tuple(PYRAMIDS),
    "fcn": ("resnet50", "resnet101"),
}
"""Decoder -> the short names of the encoders it is listed with; all but SETR-PUP take others of timm as well."""
WITHOUT_AUXILIARY = ("semantic_fpn",)
"""Decoders that the literature trains without an auxiliary head."""
DILATED_STRIDES = (8, 8)
"""Strides of the two maps, stages 3 and 4, of an encoder dilated to output stride 8."""
AUXILIARY_CHANNELS = 256


def create_pyramid_segmenter(
    decoder: str,
    encoder: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    pretrained: bool = False,
    auxiliary: bool | None = None,
    norm: NormName = "batch",
    drop_path_rate: float = 0.0,
    decoder_dropout: float = 0.1,
    grad_checkpointing: bool = False,
    encoder_args: Mapping[str, Any] | None = None,
    decoder_args: Mapping[str, Any] | None = None,
) -> Segmenter:
    """`decoder`, a name of `PYRAMID_DECODERS`, on `encoder`, a pyramid as `create_pyramid` knows it.

    `auxiliary` adds an FCN head on stage 3 (training only); None: as the literature trains the decoder, which is with
    one except for Semantic FPN. `decoder_args` are further arguments of the decoder's class, such as `channels`, and
    `auxiliary_channels` (256). FCN takes a timm encoder that can be dilated to output stride 8.
    """
    if decoder not in PYRAMID_DECODERS:
        raise unknown_name("pyramid decoder", decoder, PYRAMID_DECODERS)
    args = dict(decoder_args or {})
    auxiliary_channels = args.pop("auxiliary_channels", AUXILIARY_CHANNELS)
    _check_decoder_args(decoder, {**args, "auxiliary_channels": auxiliary_channels})
    build = _dilated_pyramid if decoder == "fcn" else create_pyramid
    pyramid = build(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        drop_path_rate=drop_path_rate,
        grad_checkpointing=grad_checkpointing,
        encoder_args=encoder_args,
    )
    head = PYRAMID_DECODERS[decoder](pyramid.channels, num_classes, norm=norm, dropout=decoder_dropout, **args)
    auxiliary_heads: list[nn.Module] = []
    if decoder not in WITHOUT_AUXILIARY if auxiliary is None else auxiliary:
        auxiliary_heads.append(
            FCNHead(
                pyramid.channels,
                num_classes,
                in_index=-2,  # stage 3
                channels=auxiliary_channels,
                num_convs=1,
                concat_input=False,
                norm=norm,
                dropout=decoder_dropout,
            )
        )
    return Segmenter(
        pyramid,
        head,
        num_classes=num_classes,
        in_channels=in_channels,
        size_multiple=(pyramid.strides[-1], pyramid.strides[-1]),
        auxiliary_heads=auxiliary_heads,
    )


def _dilated_pyramid(encoder: str, *, encoder_args: Mapping[str, Any] | None, **kwargs: Any) -> PyramidEncoder:
    """The last two stages of `encoder`, dilated to output stride 8."""
    if encoder not in HLG_VARIANTS:
        dilated = {"output_stride": DILATED_STRIDES[-1], **(encoder_args or {})}
        try:
            return create_pyramid(encoder, strides=DILATED_STRIDES, encoder_args=dilated, **kwargs)
        except UserError as error:
            if "output_stride" not in str(error):
                raise
    raise UserError(
        f"FCN needs an encoder that can be dilated to output stride 8, which {encoder} cannot; use a network such as "
        f"fcn_resnet50, or another decoder: upernet_{encoder}"
    )


def _check_decoder_args(decoder: str, args: Mapping[str, Any]) -> None:
    """UserError for a key that the decoder does not have, and for widths that are no whole numbers above 0."""
    parameters = inspect.signature(PYRAMID_DECODERS[decoder]).parameters.values()
    own = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("norm", "dropout", "in_index")]
    for key, value in args.items():
        if key not in (*own, "auxiliary_channels"):
            raise unknown_name(f"decoder_args key of {decoder}", key, [*own, "auxiliary_channels"])
        if key.endswith("channels"):
            check_whole_numbers(**{f"decoder_args {key}": value})
