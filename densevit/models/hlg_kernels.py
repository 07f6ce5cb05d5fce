"""An HLG layer in inference on a CPU by `densevit.kernels`: the same numbers as `hlg_layer`, to rounding.

Batch norms stay what they are, a scale and a shift per channel that the next step applies on its way, so that no weight
is kept twice, and linear layers leave their biases to the next step. A layer takes a part of the batch at a time, small
enough for its maps to stay in the cache.

Shapes: B batch, H W map, C channels. Maps are (B, H, W, C), contiguous.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densevit.kernels import attention as kernels
from densevit.kernels.library import LANES, usable
from densevit.kernels.maps import add_gelu_norm_, add_norm_, depthwise, norm_add, taps
from densevit.models.attention import window_biases
from densevit.models.conv_norm import CACHED_ELEMENTS, inference_path
from densevit.models.hlg_layer import DWMLP, FullAttention, HLGLayer, LocalGlobalAttention, SpatialSmoothing
from densevit.models.windows import pad_map, window_grid


def takes_layer(layer: HLGLayer, x: Tensor) -> bool:
    """Whether `infer_layer` may stand in for `layer(x)`."""
    if not inference_path() or not usable(x) or any(module.training for module in layer.modules()):
        return False
    widths = [layer.norm1.normalized_shape[0], layer.mlp.expand.dim]
    if layer.smooth is not None:
        widths.append(layer.smooth.reduce.dim)
    whole = all(width % LANES == 0 for width in widths)
    return whole and isinstance(layer.mlp.squeeze, nn.Identity) and layer.norm1.weight.dtype == torch.float32


def infer_layer(layer: HLGLayer, x: Tensor) -> Tensor:
    """layer(x) where `takes_layer` says so."""
    B, H, W, _ = x.shape
    x = x.contiguous()
    stride = layer.mlp.depthwise.stride
    out = x.new_empty(B, -(-H // stride), -(-W // stride), layer.norm1.normalized_shape[0])
    images = max(1, CACHED_ELEMENTS // (H * W * layer.mlp.expand.dim))
    for part, result in zip(x.split(images), out.split(images), strict=True):
        shortcut = part if layer.shortcut is None else layer.shortcut(part)
        mlp = _mlp(layer.mlp, part)
        norm_add(mlp, layer.mlp.project.bias, layer.norm1, shortcut.contiguous(), result)
        if isinstance(layer.attn, LocalGlobalAttention):
            assert layer.smooth is not None
            _attend_locally_and_globally(layer.attn, result, _smooth_(layer.smooth, result, layer.attn.norm))
        else:
            _attend_fully(layer, result)
    return out


def _mlp(mlp: DWMLP, x: Tensor) -> Tensor:
    """Without the last bias."""
    hidden = F.linear(x, mlp.expand.conv.weight)
    before, (scale, shift) = mlp.expand.affine(), mlp.depthwise.affine()
    weight = taps(mlp.depthwise.conv.weight) * scale
    hidden = depthwise(hidden, weight, shift, before=before, stride=mlp.depthwise.stride, act=True)
    return F.linear(hidden, mlp.project.weight)


def _smooth_(smooth: SpatialSmoothing, x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """x <- smooth(x); returns norm(x)."""
    y = smooth.expand.convolve(smooth.conv(smooth.reduce(x)), smooth.expand.conv.weight)
    add_gelu_norm_(x, y, *smooth.expand.affine(), norm)
    return y


def _attend_locally_and_globally(attn: LocalGlobalAttention, x: Tensor, normed: Tensor) -> None:
    """x <- attn(x), where `normed` is its norm."""
    C = x.shape[-1]
    grid = window_grid((x.shape[1], x.shape[2]), window_size=attn.window_size, dilation=attn.dilation)
    q, v = F.linear(normed, attn.q.weight), F.linear(normed, attn.v.weight)
    k, k_bias = (q, attn.q.bias) if attn.local_key == "query" else (F.linear(normed, attn.k.weight), attn.k.bias)
    biases = window_biases(attn.window_bias(v), grid)
    shifts = (attn.q.bias, k_bias, attn.v.bias)
    local = kernels.infer_windows(q, k, v, grid.groups, biases, num_heads=attn.num_heads, shifts=shifts)
    add_norm_(x, local, attn.norm_query)
    assert attn.mix_query.bias is not None
    q = depthwise(local, taps(attn.mix_query.weight), attn.mix_query.bias + attn.q.bias, addend=q)  # Eq. 9
    embedded = attn.embed(pad_map(x, grid), grid)
    attended = attn.attend(q, attn.k(embedded), attn.v(embedded), centers=grid.centers_doubled)
    x.view(-1, C).addmm_(attended.view(-1, C), attn.project.weight.t()).add_(attn.project.bias)


def _attend_fully(layer: HLGLayer, x: Tensor) -> None:
    """x <- x + norm(attn(x))."""
    attn, norm = layer.attn, layer.norm2
    assert isinstance(attn, FullAttention)
    assert norm is not None
    norm_add(F.linear(attn.attended(x), attn.project.weight), attn.project.bias, norm, x, x)
