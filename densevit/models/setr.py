"""SETR's decoders (Sec. 3.4): Naive, progressive upsampling (PUP), multi-level aggregation (MLA), auxiliary heads.

Shapes: B batch, C encoder channels, D decoder channels (256), K classes, h w the encoder's grid (stride 16).
Decoders return low-resolution logits; the last bilinear upsampling to the image is the segmenter's. A 1x1 convolution
and bilinear upsampling commute, so every classifier runs before it: the same function for less time and memory.
"""

import inspect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch import cat as concatenate

from densevit.errors import UserError, unknown_name
from densevit.models.layers import NormName, conv_norm_relu, scale_up

SETR_DECODERS = ("naive", "pup", "mla")
DECODER_ARGS = ("num_upsamplings", "classifier_kernel_size", "align_corners")  # what one decoder has, others not


class NaiveDecoder(nn.Module):
    """LN, 1x1 conv, norm, ReLU, 1x1 classifier on the last map: (B, C, h, w) -> (B, K, h, w)."""

    def __init__(
        self, in_channels: int, num_classes: int, *, channels: int = 256, norm: NormName = "batch", dropout: float = 0.0
    ):
        super().__init__()
        self.norm = LayerNorm2d(in_channels, eps=1e-6)
        self.conv = conv_norm_relu(in_channels, channels, kernel_size=1, norm=norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.conv(self.norm(maps[-1]))))


class PUPDecoder(nn.Module):
    """Progressive upsampling: LN, then 3x3 conv, norm, ReLU, bilinear upsampling, as often as `num_upsamplings`.

    With the paper's four steps of 2x: (B, C, h, w) -> (B, K, 8h, 8w), and the segmenter does the fourth 2x.
    `num_upsamplings=2` is the ablation of Table 3 ("2step", 4x each).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int = 256,
        num_upsamplings: int = 4,
        norm: NormName = "batch",
        dropout: float = 0.0,
    ):
        super().__init__()
        if num_upsamplings not in (2, 4):
            raise UserError(f"num_upsamplings must be 4 (2x each) or 2 (4x each), not {num_upsamplings}")
        self.factor = {4: 2, 2: 4}[num_upsamplings]
        self.norm = LayerNorm2d(in_channels, eps=1e-6)
        widths = [in_channels] + [channels] * num_upsamplings
        self.convs = nn.ModuleList(conv_norm_relu(a, b, kernel_size=3, norm=norm) for a, b in pairwise(widths))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.convs[0](self.norm(maps[-1]))
        for conv in self.convs[1:]:
            x = conv(scale_up(x, self.factor))
        return self.classifier(self.dropout(x))


class MLANeck(nn.Module):
    """Top-down aggregation of M maps of one resolution: M x (B, C, h, w), shallow first -> M x (B, D, h, w).

    Each stream: LN, 1x1 conv; the deepest is added to the next shallower, and so on; a 3x3 conv follows each sum.
    Part of the encoder as far as learning rates go: the authors' x10 rate of the heads does not apply here.
    """

    def __init__(self, in_channels: int, *, num_streams: int = 4, channels: int = 256, norm: NormName = "batch"):
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm2d(in_channels, eps=1e-6) for _ in range(num_streams))
        self.reduce = nn.ModuleList(
            conv_norm_relu(in_channels, channels, kernel_size=1, norm=norm) for _ in range(num_streams)
        )
        self.refine = nn.ModuleList(
            conv_norm_relu(channels, channels, kernel_size=3, norm=norm) for _ in range(num_streams)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        streams = [reduce(norm(x)) for reduce, norm, x in zip(self.reduce, self.norms, maps, strict=True)]
        for i in reversed(range(len(streams) - 1)):
            streams[i] = streams[i] + streams[i + 1]
        return [refine(x) for refine, x in zip(self.refine, streams, strict=True)]


class MLADecoder(nn.Module):
    """M streams (B, D, h, w) -> (B, K, 4h, 4w): two 3x3 convs each, 4x upsampling, concatenation, classifier.

    `classifier_kernel_size` 1 fits the paper's tables; 3 is the authors' first code. `align_corners` of the 4x
    upsampling is True in the authors' code and False in mmsegmentation.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_streams: int = 4,
        channels: int = 128,
        norm: NormName = "batch",
        dropout: float = 0.0,
        classifier_kernel_size: int = 1,
        align_corners: bool = True,
    ):
        super().__init__()
        self.align_corners = align_corners
        self.streams = nn.ModuleList(
            nn.Sequential(
                *conv_norm_relu(in_channels, channels, kernel_size=3, norm=norm),
                *conv_norm_relu(channels, channels, kernel_size=3, norm=norm),
            )
            for _ in range(num_streams)
        )
        self.dropout = nn.Dropout2d(dropout)
        k = classifier_kernel_size
        self.classifier = nn.Conv2d(num_streams * channels, num_classes, k, padding=k // 2)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        up = [scale_up(s(x), 4, align_corners=self.align_corners) for s, x in zip(self.streams, maps, strict=True)]
        return self.classifier(self.dropout(concatenate(up, dim=1)))


class AuxiliaryHead(nn.Module):
    """Deep supervision on one map (Sec. 4.1): LN, conv (1x1 for Naive, 3x3 for PUP), norm, ReLU, 1x1 classifier."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        in_index: int,
        kernel_size: int,
        channels: int = 256,
        norm: NormName = "batch",
    ):
        super().__init__()
        self.in_index = in_index
        self.norm = LayerNorm2d(in_channels, eps=1e-6)
        self.conv = conv_norm_relu(in_channels, channels, kernel_size=kernel_size, norm=norm)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.conv(self.norm(maps[self.in_index])))


class LinearAuxiliaryHead(nn.Conv2d):
    """MLA's auxiliary head: one 1x1 classifier without bias on an aggregated stream."""

    def __init__(self, in_channels: int, num_classes: int, *, in_index: int):
        super().__init__(in_channels, num_classes, 1, bias=False)
        self.in_index = in_index

    def forward(self, maps: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(maps[self.in_index])


def auxiliary_blocks(decoder: str, depth: int) -> tuple[int, ...]:
    """Blocks (from 1) that feed the auxiliary heads: the paper's for 24 and 12 layers, scaled for other depths."""
    plans: dict[str, dict[int, tuple[int, ...]]] = {
        "naive": {24: (10, 15, 20), 12: (3, 6, 9)},
        "pup": {24: (10, 15, 20, 24), 12: (5, 8, 10, 12)},
    }
    if decoder not in plans:
        raise unknown_name("SETR decoder", decoder, SETR_DECODERS)
    base = 12 if depth < 18 else 24
    scaled = (max(1, (2 * block * depth + base) // (2 * base)) for block in plans[decoder][base])  # round half up
    return tuple(dict.fromkeys(scaled))


def mla_blocks(depth: int, num_streams: int = 4) -> tuple[int, ...]:
    """Every (depth / M)-th block: 6, 12, 18, 24 of 24. UserError where the depth holds fewer than M blocks."""
    if depth < num_streams:
        raise UserError(f"MLA needs at least {num_streams} blocks, the encoder has {depth}")
    return tuple((i * depth) // num_streams for i in range(1, num_streams + 1))


def build_setr_parts(
    decoder: str,
    *,
    embed_dim: int,
    blocks: Sequence[int],
    aux_blocks: Sequence[int],
    num_classes: int,
    channels: int,
    norm: NormName,
    dropout: float,
    decoder_args: Mapping[str, Any],
) -> tuple[nn.Module, nn.Module, list[nn.Module]]:
    """Neck, decoder and auxiliary heads of one SETR variant; `blocks` are the encoder's outputs, in order."""
    kinds: dict[str, type[nn.Module]] = {"naive": NaiveDecoder, "pup": PUPDecoder, "mla": MLADecoder}
    if decoder not in kinds:
        raise unknown_name("SETR decoder", decoder, SETR_DECODERS)
    own = [name for name in inspect.signature(kinds[decoder]).parameters if name in DECODER_ARGS]
    for key in decoder_args:
        if key not in own:
            raise unknown_name(f"decoder_args key of SETR-{decoder}", key, own)
    shared: dict[str, Any] = {"norm": norm, "dropout": dropout, **decoder_args}
    aux_inputs = [blocks.index(block) for block in aux_blocks]
    if decoder == "mla":
        neck = MLANeck(embed_dim, channels=channels, norm=norm)
        mla = MLADecoder(channels, num_classes, channels=channels // 2, **shared)
        return neck, mla, [LinearAuxiliaryHead(channels, num_classes, in_index=i) for i in aux_inputs]
    head = kinds[decoder](embed_dim, num_classes, channels=channels, **shared)
    kernel_size = {"naive": 1, "pup": 3}[decoder]
    aux_args: dict[str, Any] = {"kernel_size": kernel_size, "channels": channels, "norm": norm}
    aux = [AuxiliaryHead(embed_dim, num_classes, in_index=i, **aux_args) for i in aux_inputs]
    return nn.Identity(), head, [*aux]
