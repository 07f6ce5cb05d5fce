"""An HLG layer in training by `densevit.kernels`: the same numbers as `hlg_layer`, to rounding.

Shapes: B batch, H W map, C channels. Maps are (B, H, W, C), contiguous.
"""

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from densevit.kernels.bfloat16 import keeps_narrow, narrow
from densevit.models.attention import window_attention_beside
from densevit.models.conv_gradients import compute_dtype
from densevit.models.hlg_kernels import plain, whole_vectors
from densevit.models.hlg_layer import FullAttention, HLGLayer, LocalGlobalAttention, SpatialSmoothing
from densevit.models.layer_steps import (
    AddGelu,
    Linear,
    LinearAdd,
    LinearBeside,
    MixQuery,
    NormAdd,
    NormLinear,
    PoolWindows,
)
from densevit.models.lean_gradients import counted, has_running_statistics, norm_gelu_conv
from densevit.models.norm_gelu_kernels import usable_norms
from densevit.models.windows import pad_map, window_grid


def takes_training(layer: HLGLayer, x: Tensor) -> bool:
    """Whether `train_layer` may stand in for `layer(x)`."""
    weights: list[Tensor] = []
    if not torch.is_grad_enabled() or not plain(layer, training=True, found=weights) or not whole_vectors(layer):
        return False
    norms = _batch_norms(layer)
    return all(has_running_statistics(norm) for norm in norms) and usable_norms(norms, x, *weights)


def _batch_norms(layer: HLGLayer) -> list[nn.BatchNorm2d]:
    blocks = [layer.mlp.expand, layer.mlp.depthwise, *([] if layer.shortcut is None else [layer.shortcut])]
    if layer.smooth is not None:
        blocks += [layer.smooth.reduce, layer.smooth.conv, layer.smooth.expand]
    return [block.norm for block in blocks]


def train_layer(layer: HLGLayer, x: Tensor) -> Tensor:
    """layer(x) where `takes_training` says so."""
    x = x.to(compute_dtype(x))
    x, y = layer.mlp.beside(x)
    shortcut = x if layer.shortcut is None else layer.shortcut(x)
    x = _norm_add(y, layer.norm1, shortcut, layer.drop_path)
    if layer.smooth is not None:
        x = _smoothed(layer.smooth, x)
    if isinstance(layer.attn, LocalGlobalAttention):
        return _local_and_global(layer.attn, x)
    assert isinstance(layer.attn, FullAttention)
    assert layer.norm2 is not None
    attended = _linear(layer.attn.project, layer.attn.attended(_linear(layer.attn.qkv, x)))
    return _norm_add(attended, layer.norm2, x, layer.drop_path)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """layer(x); where maps are kept in bfloat16 by a step that does so, and whose gradients no compiler autocasts."""
    return Linear.apply(x, layer.weight, layer.bias) if keeps_narrow() else layer(x)


def _norm_add(x: Tensor, norm: nn.LayerNorm, residual: Tensor, drop_path: DropPath) -> Tensor:
    return NormAdd.apply(x, norm.weight, norm.bias, residual, _factors(drop_path, x), float(norm.eps))


def _factors(drop_path: DropPath, x: Tensor) -> Tensor | None:
    """What `drop_path` multiplies each image with, (B, 1, 1, 1)."""
    return drop_path(torch.ones(len(x), 1, 1, 1, dtype=torch.float32, device=x.device)) if drop_path.drop_prob else None


def _smoothed(smooth: SpatialSmoothing, x: Tensor) -> Tensor:
    kept = narrow(x.detach()) if keeps_narrow() else None  # by both steps
    x, y = LinearBeside.apply(x, smooth.reduce.conv.weight, kept)
    y = norm_gelu_conv(y.permute(0, 3, 1, 2), smooth.reduce.norm, smooth.conv.conv)
    y = norm_gelu_conv(y, smooth.conv.norm, smooth.expand.conv)
    norm = smooth.expand.norm
    return AddGelu.apply(x, y.permute(0, 2, 3, 1), norm.weight, norm.bias, counted(norm, y), kept)


def _local_and_global(attn: LocalGlobalAttention, x: Tensor) -> Tensor:
    grid = window_grid((x.shape[1], x.shape[2]), window_size=attn.window_size, dilation=attn.dilation)
    layers = [attn.q, attn.v] if attn.local_key == "query" else [attn.q, attn.v, attn.k]
    weights = [t for layer in layers for t in (layer.weight, layer.bias)]
    x, q, v, *key = NormLinear.apply(x, attn.norm.weight, attn.norm.bias, float(attn.norm.eps), *weights)
    bias = attn.window_bias(v)
    key, heads = key[0] if key else q, attn.num_heads
    q, local = window_attention_beside(q, key, v, grid, num_heads=heads, bias=bias)  # Eq. 4, 5
    norm, mix = attn.norm_query, attn.mix_query
    x, q = MixQuery.apply(x, local, q, float(norm.eps), norm.weight, norm.bias, mix.weight, mix.bias)  # Eq. 9
    if attn.embed.kind == "avgpool":
        x, pooled = PoolWindows.apply(x, grid)
        embedded = attn.embed.norm(pooled)
    else:
        embedded = attn.embed(pad_map(x, grid), grid)
    attended = attn.attend(q, _linear(attn.k, embedded), _linear(attn.v, embedded), centers=grid.centers_doubled)
    factors = _factors(attn.drop_path, x)
    return LinearAdd.apply(attended, attn.project.weight, attn.project.bias, x, factors)
