"""The decoder of SETR-PUP-HLG (Sec. 3.4): four stages on one map, two transformer layers in windows, the classifier.

Text, tables and code disagree about it. Here the tables decide: stages meet at stride 4, and the layers are plain
transformer layers with local attention (see `docs/numbers-that-disagree.md`); `fuse_stride` and `layers` give the text.
Shapes: B batch, C_i h_i w_i channels and sides of stage i, D decoder channels (512), K classes, R window size (8).
"""

from collections.abc import Sequence

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from densevit.errors import UserError, check_positive_numbers, check_whole_numbers, unknown_name
from densevit.models.attention import window_attention
from densevit.models.hlg_layer import HLGLayer
from densevit.models.layers import NormName, conv_norm_relu, resize
from densevit.models.position_bias import DynamicPositionBias, window_bias
from densevit.models.setr import PUPDecoder
from densevit.models.windows import window_grid

LAYERS = ("local", "hlg")
FUSE_STRIDES = (4, 16)


class WindowAttention(nn.Module):
    """Self-attention with a position bias inside plain or dilated windows of R x R: (B, H, W, C) kept."""

    def __init__(self, dim: int, *, num_heads: int, window_size: int, dilation: int | str) -> None:
        super().__init__()
        self.num_heads, self.window_size, self.dilation = num_heads, window_size, dilation
        self.qkv = nn.Linear(dim, 3 * dim)
        self.bias = DynamicPositionBias(dim, num_heads=num_heads)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        grid = window_grid((x.shape[1], x.shape[2]), window_size=self.window_size, dilation=self.dilation)
        bias = window_bias(self.bias, window_size=self.window_size, dtype=v.dtype, device=v.device)
        return self.project(window_attention(q, k, v, grid, num_heads=self.num_heads, bias=bias))


class LocalLayer(nn.Module):
    """A pre-norm transformer layer with attention in windows: (B, H, W, C) kept."""

    def __init__(self, dim: int, *, num_heads: int, window_size: int, dilation: int | str, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads=num_heads, window_size=window_size, dilation=dilation)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class HLGDecoder(nn.Module):
    """Stages (B, C_i, h_i, w_i) at strides 4, 8, 16, 32 -> logits (B, K, h_0, w_0); at `fuse_stride` 16 twice that.

    The stages are brought to one map, concatenated, 3x3 convolution to D, norm, ReLU; then the layers, windows plain
    and dilated in turn; dropout, classifier. At `fuse_stride` 16 the layers are followed by PUP as in the text.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        num_heads: int = 16,
        num_layers: int = 2,
        layers: str = "local",
        window_size: int = 8,
        dilation: int | str = "span",
        mlp_ratio: float = 4.0,
        fuse_stride: int = 4,
        pup_channels: int = 256,
        norm: NormName = "batch",
        dropout: float = 0.1,
    ):
        """`layers` "local" fits the tables, "hlg" are those of the backbone with their global step (the text).

        `dilation` of every second layer: "span" (windows that span the map) or a fixed rate, 8 in the authors' code.
        `pup_channels` is the width of PUP's convolutions. UserError for values that do not fit each other.
        """
        super().__init__()
        _check(layers=layers, fuse_stride=fuse_stride, channels=channels, num_heads=num_heads, num_layers=num_layers)
        _check_windows(window_size, dilation)
        check_positive_numbers(mlp_ratio=mlp_ratio)
        self.fuse_level = {4: 0, 16: 2}[fuse_stride]
        self.fuse = conv_norm_relu(sum(in_channels), channels, kernel_size=3, norm=norm)
        kind = {"local": LocalLayer, "hlg": _hlg_layer}[layers]
        self.layers = nn.Sequential(
            *(
                kind(
                    channels,
                    num_heads=num_heads,
                    window_size=window_size,
                    dilation=dilation if index % 2 else 1,
                    mlp_ratio=mlp_ratio,
                )
                for index in range(num_layers)
            )
        )
        self.layers.apply(_init_linear)
        self.pup: PUPDecoder | None = None
        if fuse_stride == 16:
            self.pup = PUPDecoder(channels, num_classes, channels=pup_channels, norm=norm, dropout=dropout)
        else:
            self.dropout = nn.Dropout2d(dropout)
            self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        level = maps[self.fuse_level]
        size = (level.shape[2], level.shape[3])
        x = self.fuse(torch.cat([resize(each, size) for each in maps], dim=1))
        x = self.layers(x.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)
        return self.classifier(self.dropout(x)) if self.pup is None else self.pup([x])


def _hlg_layer(dim: int, *, num_heads: int, window_size: int, dilation: int | str, mlp_ratio: float) -> HLGLayer:
    return HLGLayer(dim, dim, num_heads=num_heads, window_size=window_size, dilation=dilation, mlp_ratio=mlp_ratio)


def _check(*, layers: str, fuse_stride: int, channels: int, num_heads: int, num_layers: int) -> None:
    if layers not in LAYERS:
        raise unknown_name("layers of the HLG decoder", layers, LAYERS)
    if fuse_stride not in FUSE_STRIDES:
        raise UserError(f"fuse_stride must be 4 (the paper's tables) or 16 (its text), not {fuse_stride!r}")
    check_whole_numbers(channels=channels, num_heads=num_heads, num_layers=num_layers)
    if channels % num_heads:
        raise UserError(f"channels {channels} must be a multiple of num_heads {num_heads}; change one of them")


def _check_windows(window_size: int, dilation: int | str) -> None:
    check_whole_numbers(window_size=window_size)
    if dilation != "span" and (type(dilation) is not int or dilation < 1):
        raise UserError(f"dilation must be 'span' or a whole number of at least 1, not {dilation!r}")


def _init_linear(module: nn.Module) -> None:
    """As in the backbone: truncated normal 0.02, biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
