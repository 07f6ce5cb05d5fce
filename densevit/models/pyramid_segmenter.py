"""Segmenters on a pyramid encoder: HLG, Swin, ResNet ... under a decoder that reads maps at strides 4 to 32."""

from collections.abc import Mapping
from typing import Any

from densevit.errors import UserError, unknown_name
from densevit.models.layers import NormName
from densevit.models.pyramid import STRIDES, create_pyramid
from densevit.models.segmenter import Segmenter
from densevit.models.semantic_fpn import SemanticFPNDecoder

PYRAMID_DECODERS: dict[str, type] = {"semantic_fpn": SemanticFPNDecoder}


def create_pyramid_segmenter(
    decoder: str,
    encoder: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    pretrained: bool = False,
    norm: NormName = "batch",
    drop_path_rate: float = 0.0,
    decoder_dropout: float = 0.1,
    grad_checkpointing: bool = False,
    encoder_args: Mapping[str, Any] | None = None,
    decoder_args: Mapping[str, Any] | None = None,
) -> Segmenter:
    """`decoder`, a name of `PYRAMID_DECODERS`, on `encoder`, a pyramid as `create_pyramid` knows it."""
    if decoder not in PYRAMID_DECODERS:
        raise unknown_name("pyramid decoder", decoder, PYRAMID_DECODERS)
    pyramid = create_pyramid(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        drop_path_rate=drop_path_rate,
        grad_checkpointing=grad_checkpointing,
        encoder_args=encoder_args,
    )
    try:
        head = PYRAMID_DECODERS[decoder](
            pyramid.channels, num_classes, norm=norm, dropout=decoder_dropout, **(decoder_args or {})
        )
    except TypeError as error:
        raise UserError(f"decoder_args {dict(decoder_args or {})} do not fit {decoder}: {error}") from error
    return Segmenter(
        pyramid, head, num_classes=num_classes, in_channels=in_channels, size_multiple=(STRIDES[-1], STRIDES[-1])
    )
