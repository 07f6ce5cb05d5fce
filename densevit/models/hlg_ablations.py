"""The steps of Table 14, from PVT blocks in HLG's architecture to the full model.

| step            | what it has                                               | paper          | here           |
|-----------------|-----------------------------------------------------------|----------------|----------------|
| `pvt`           | 2x2 patch embeddings, MLP, attention on pooled windows    | 24.5 M / 4.0 G | 25.1 M / 3.9 G |
| `dwmlp`         | DWMLP instead of MLP and patch embeddings                 | 24.2 M / 4.2 G | 24.2 M / 4.3 G |
| `shared_local`  | local attention in plain windows, projections shared      | 24.2 M / 4.7 G | 24.3 M / 4.7 G |
| `plain_dilated` | every second layer dilated: HLG                           | 24.2 M / 4.7 G | 24.3 M / 4.7 G |

The paper does not give the baseline's MLP. With PVT's ratio of 4 the four stages alone hold 12 C^2 per layer = 25.9 M;
embeddings 1.6 M, smoothing 1.0 M and classifier 0.8 M make 29.3 M. Ratio 3 is the integer that fits both counts.
Shapes: B batch, H W map, C channels; maps are (B, H, W, C).
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from densevit.errors import UserError, unknown_name
from densevit.models.attention import BiasedAttention
from densevit.models.hlg import HLG, create_hlg
from densevit.models.hlg_layer import (
    FullAttention,
    HLGLayer,
    SpatialSmoothing,
    WindowEmbedding,
    conv_nhwc,
)
from densevit.models.windows import pad_map, window_grid

HLG_STEPS = ("pvt", "dwmlp", "shared_local", "plain_dilated")
FULL_MODEL = HLG_STEPS[-1]
PVT_MLP_RATIO = 3.0
_NOT_YET = ("window_size", "dilation", "window_embedding", "local_key", "position_bias", "mlp_ratio", "squeeze_excite")
"""What only the later steps, which have windows, can vary."""


class PooledAttention(nn.Module):
    """PVT's attention with pooling: every token attends to one token per plain window; residual: (B, H, W, C) kept."""

    def __init__(self, dim: int, *, num_heads: int, window_size: int = 7, drop_path: float = 0.0) -> None:
        super().__init__()
        self.window_size = window_size
        self.norm = nn.LayerNorm(dim)
        self.embed = WindowEmbedding(dim, kind="avgpool", window_size=window_size)
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.attend = BiasedAttention(dim, num_heads=num_heads)
        self.project = nn.Linear(dim, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        grid = window_grid((x.shape[1], x.shape[2]), window_size=self.window_size)
        keys = self.embed(pad_map(x, grid), grid)
        attended = self.attend(self.q(self.norm(x)), self.k(keys), self.v(keys), centers=grid.centers_doubled)
        return x + self.drop_path(self.project(attended))


class PatchEmbedding(nn.Module):
    """Halve the map: 2x2 convolution of stride 2, LN; an odd side is filled up with zeros."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, 2, stride=2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        return self.norm(conv_nhwc(self.conv, x))


class PVTLayer(nn.Module):
    """A PVT block: patch embedding where the map is halved, pre-norm attention, pre-norm MLP."""

    def __init__(
        self, in_dim: int, dim: int, *, num_heads: int, stride: int, full_attention: bool, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(in_dim, dim) if stride > 1 else nn.Identity()
        self.drop_path = DropPath(drop_path)
        self.smooth: nn.Module = nn.Identity() if full_attention else SpatialSmoothing(dim)
        self.attn: nn.Module
        if full_attention:
            self.attn = FullAttention(dim, num_heads=num_heads)
            self.norm1 = nn.LayerNorm(dim)
        else:
            self.attn = PooledAttention(dim, num_heads=num_heads, drop_path=drop_path)
        self.full_attention = full_attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(PVT_MLP_RATIO * dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.smooth(self.patch_embed(x))
        x = x + self.drop_path(self.attn(self.norm1(x))) if self.full_attention else self.attn(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))


def _replace_layer(layer: HLGLayer, *, step: str) -> nn.Module:
    """The layer of an earlier step that takes this layer's place: same widths, heads, stride and drop path."""
    full = isinstance(layer.attn, FullAttention)
    in_dim, dim = cast(nn.Linear, layer.mlp.expand.conv).in_features, layer.mlp.project.out_features
    num_heads = cast(BiasedAttention, layer.attn.attend).num_heads
    if step == "pvt":
        return PVTLayer(
            in_dim,
            dim,
            num_heads=num_heads,
            stride=2 if layer.shortcut is not None else 1,
            full_attention=full,
            drop_path=layer.drop_path.drop_prob,
        )
    if not full:
        layer.attn = PooledAttention(dim, num_heads=num_heads, drop_path=layer.drop_path.drop_prob)
    return layer


def create_hlg_step(step: str, name: str = "hlg_small", **kwargs: Any) -> HLG:
    """Build a step of Table 14: `pvt`, `dwmlp`, `shared_local` or `plain_dilated` (the full model).

    `kwargs` are those of `HLG`; the first two steps are as in the table and refuse what varies their layers.
    """
    if step not in HLG_STEPS:
        raise unknown_name("step of Table 14", step, HLG_STEPS)
    for key in kwargs if step in ("pvt", "dwmlp") else ():
        if key in _NOT_YET:
            raise UserError(f"step {step!r} is as in Table 14 and takes no {key}; vary it in 'shared_local' or later")
    if step == "shared_local" and kwargs.setdefault("dilation", 1) != 1:
        raise UserError(
            f"step 'shared_local' has plain windows only, got dilation={kwargs['dilation']!r}; leave it out"
        )
    model = create_hlg(name, **kwargs)
    if step in ("pvt", "dwmlp"):
        for layers in cast(list[nn.ModuleList], model.stages):
            for index, layer in enumerate(layers):
                layers[index] = _replace_layer(cast(HLGLayer, layer), step=step)
        model.initialize()
        model.to(memory_format=torch.channels_last)
    return model
