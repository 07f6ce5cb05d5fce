"""An HLG layer in inference by `densevit.kernels`: the same numbers as `hlg_layer`, to rounding.

Batch norms stay what they are, a scale and a shift per channel that the next step applies on its way, so that no weight
is kept twice, and linear layers leave their biases to the next step. A layer takes a part of the batch at a time, small
enough for its maps to stay in the cache.

Shapes: B batch, H W map, C channels. Maps are (B, H, W, C), contiguous.
"""

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn

from densevit.kernels import attention as kernels
from densevit.kernels.library import LANES, call, on_gpu, usable
from densevit.kernels.maps import add_gelu_norm_, add_norm_, conv_shape, depthwise, norm_add, taps
from densevit.kernels.operators import as_operator
from densevit.kernels.products import linear, multiply
from densevit.models.attention import window_biases
from densevit.models.conv_gradients import compute_dtype
from densevit.models.conv_norm import ConvNorm
from densevit.models.hlg_layer import DWMLP, FullAttention, HLGLayer, LocalGlobalAttention, SpatialSmoothing
from densevit.models.untouched import untouched
from densevit.models.windows import WindowGrid, pad_map, window_grid

PART_ELEMENTS = 2**22
"""Largest map of a part of the batch, in elements, for it to stay in a CPU's cache."""
COMPILED_PART_ELEMENTS = 2**21
"""The same for the DWMLP, where a compiler takes the rest of the layer whole: half the size takes no longer."""
GPU_PART_BYTES = 2**28
"""The same on a GPU, in bytes, for it to need little memory."""
MAX_STEM_WIDTH, MAX_STEM_TAPS = 128, 64
"""Channels of the stem, and of an image nine times, that a GPU's kernel takes at once."""


def takes_layer(layer: HLGLayer, x: Tensor) -> bool:
    """Whether `infer_layer` may stand in for `layer(x)`."""
    weights: list[Tensor] = []
    if torch.is_grad_enabled() or not plain(layer, training=False, found=weights) or not usable(x, *weights):
        return False
    if not isinstance(layer.mlp.squeeze, nn.Identity) or not whole_vectors(layer):
        return False
    attn = layer.attn
    return not isinstance(attn, LocalGlobalAttention) or kernels.takes(
        x, attn.num_heads, channels=attn.q.out_features, tokens=attn.window_size**2
    )


def whole_vectors(layer: HLGLayer) -> bool:
    """Whether the widths of the layer's maps are such that the kernels take them."""
    widths = [layer.norm1.normalized_shape[0], layer.mlp.expand.dim]
    if layer.smooth is not None:
        widths.append(layer.smooth.reduce.dim)
    return all(width % LANES == 0 for width in widths)


def plain(layer: HLGLayer, *, training: bool, found: list[Tensor]) -> bool:
    """Whether all parts are in this mode and as `hlg_layer` made them; `found` takes their parameters, without gaps."""
    if type(layer) is not HLGLayer or type(layer.attn) not in (LocalGlobalAttention, FullAttention):
        return False  # a step of `hlg_ablations`
    if not untouched(layer, training=training, found=found):
        return False
    return all(weight.dim() > 2 or weight.is_contiguous() for weight in found)


def infer_layer(layer: HLGLayer, x: Tensor) -> Tensor:
    """layer(x) where `takes_layer` says so."""
    x = x.to(compute_dtype(x)).contiguous()
    out = x.new_empty(conv_shape(x, layer.norm1.normalized_shape[0], layer.mlp.depthwise.stride))
    mlp, finish = _mlp(layer.mlp), _attention(layer, (out.shape[1], out.shape[2]))
    for part, result in _parts(x, out, peak=x.shape[1] * x.shape[2] * layer.mlp.expand.dim):
        shortcut = part if layer.shortcut is None else layer.shortcut(part).contiguous()
        norm_add(mlp(part), layer.mlp.project.bias, layer.norm1, shortcut, result)
        finish(result)
    return out


def takes_stem(stem: nn.Sequential, x: Tensor) -> bool:
    """Whether `infer_stem` may stand in for a Stem's `stem(x)`: in bfloat16 on a GPU."""
    weights: list[Tensor] = []
    if torch.is_grad_enabled() or not on_gpu(x) or compute_dtype(x) != torch.bfloat16:
        return False
    if not untouched(stem, training=False, found=weights) or not usable(x, *weights) or len(stem) != 3:
        return False
    first, second, _ = cast(list[ConvNorm], list(stem))
    if not all(type(block) is ConvNorm and block.act for block in (first, second)):
        return False
    conv, D, C = first.conv, first.dim, x.shape[-1]
    if D % LANES or D > MAX_STEM_WIDTH or 9 * C > MAX_STEM_TAPS:
        return False
    if type(second.conv) is not nn.Linear or second.conv.weight.shape != (D, D):
        return False
    steps = (2, 2), (1, 1), (1, 1)
    halving = type(conv) is nn.Conv2d and (conv.stride, conv.padding, conv.dilation) == steps
    return halving and conv.weight.shape == (D, C, 3, 3)


def infer_stem(stem: nn.Sequential, x: Tensor) -> Tensor:
    """stem(x) where `takes_stem` says so: images (B, H, W, 3) -> (B, ceil(H / 4), ceil(W / 4), C)."""
    first, second, third = cast(list[ConvNorm], list(stem))
    (B, H, W, C), D = x.shape, first.dim
    out = x.new_empty(B, -(-H // 2), -(-W // 2), D, dtype=compute_dtype(x))
    weight = first.conv.weight.to(out.dtype).permute(0, 2, 3, 1).reshape(D, 9 * C)
    matrix = second.conv.weight.to(out.dtype).contiguous()
    call("stem", x.contiguous(), weight, *first.affine(), matrix, *second.affine(), out, B, H, W, C)
    return third(out)


def _parts(x: Tensor, out: Tensor, *, peak: int) -> Iterable[tuple[Tensor, Tensor]]:
    """The batch in parts whose largest map, `peak` elements per image, is small; whole to a compiler (see `parts`)."""
    if torch.compiler.is_compiling():
        return [(x, out)]
    images = _images_at_once(x, peak=peak)
    return zip(x.split(images), out.split(images), strict=True)


def _images_at_once(x: Tensor, *, peak: int, most: int = PART_ELEMENTS) -> int:
    return max(1, (GPU_PART_BYTES // x.element_size() if on_gpu(x) else most) // peak)


def _mlp(mlp: DWMLP) -> Callable[[Tensor], Tensor]:
    """The DWMLP without its last bias."""
    before, (scale, shift) = mlp.expand.affine(), mlp.depthwise.affine()
    weight, stride = taps(mlp.depthwise.conv.weight) * scale, mlp.depthwise.stride
    narrow, wide = mlp.expand.conv.weight, mlp.project.weight

    def run(x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return infer_dwmlp(x, narrow, *before, weight, shift, wide, stride, len(x))
        images = _images_at_once(x, peak=x.shape[1] * x.shape[2] * len(narrow), most=COMPILED_PART_ELEMENTS)
        # autocast does not reach into an operator
        return infer_dwmlp(x, narrow.to(x.dtype), *before, weight, shift, wide.to(x.dtype), stride, images)

    return run


@as_operator(
    "(Tensor x, Tensor narrow, Tensor scale, Tensor shift, Tensor weight, Tensor bias, Tensor wide, int stride, "
    "int images) -> Tensor",
    lambda x, narrow, scale, shift, weight, bias, wide, stride, images: x.new_empty(conv_shape(x, len(wide), stride)),
)
def infer_dwmlp(
    x: Tensor, narrow: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, wide: Tensor, stride: int,
    images: int,
) -> Tensor:  # fmt: skip
    """What `_mlp` runs, so many `images` at a time.

    `weight` (9, C) is that of convolution and norm, `scale` and `shift` are the first norm's.
    """
    outputs = []
    for part in x.split(images):
        hidden = linear(part, narrow)
        hidden = depthwise(hidden, weight, bias, before=(scale, shift), stride=stride, act=True)
        outputs.append(linear(hidden, wide))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attention(layer: HLGLayer, size: tuple[int, int]) -> Callable[[Tensor], None]:
    """What follows the DWMLP, into the map of `size` itself."""
    if layer.smooth is None:
        return lambda x: _attend_fully(layer, x)
    assert isinstance(layer.attn, LocalGlobalAttention)
    smooth, norm = _smoothing(layer.smooth), layer.attn.norm
    attend = _local_and_global(
        layer.attn, window_grid(size, window_size=layer.attn.window_size, dilation=layer.attn.dilation)
    )
    return lambda x: attend(x, smooth(x, norm))


def _smoothing(smooth: SpatialSmoothing) -> Callable[[Tensor, nn.LayerNorm], Tensor]:
    """(x, norm) -> norm(smooth(x)); x <- smooth(x)."""
    weight, affine = smooth.expand.conv.weight, smooth.expand.affine()

    def run(x: Tensor, norm: nn.LayerNorm) -> Tensor:
        y = linear(smooth.conv(smooth.reduce(x)), weight)
        add_gelu_norm_(x, y, *affine, norm)
        return y

    return run


def _local_and_global(attn: LocalGlobalAttention, grid: WindowGrid) -> Callable[[Tensor, Tensor], None]:
    """(x, attn.norm(x)) -> None; x <- attn(x)."""
    biases, own_key = window_biases(attn.window_bias(attn.norm.weight), grid), attn.local_key == "own"
    shifts = (attn.q.bias, attn.k.bias if own_key else attn.q.bias, attn.v.bias)
    assert attn.mix_query.bias is not None
    weight, shift = taps(attn.mix_query.weight), attn.mix_query.bias + attn.q.bias

    def run(x: Tensor, normed: Tensor) -> None:
        q, v = linear(normed, attn.q.weight), linear(normed, attn.v.weight)
        k = linear(normed, attn.k.weight) if own_key else q
        local = kernels.infer_windows(q, k, v, grid.groups, biases, num_heads=attn.num_heads, shifts=shifts)
        add_norm_(x, local, attn.norm_query)
        q = depthwise(local, weight, shift, addend=q)  # Eq. 9
        embedded = attn.embed(pad_map(x, grid), grid)
        attended = attn.attend(q, attn.k(embedded), attn.v(embedded), centers=grid.centers_doubled)
        if x.dtype != attn.project.weight.dtype:  # autocast keeps the weight
            x.add_(attn.project(attended))
        else:
            rows = x.flatten(0, 2)
            multiply(attended.flatten(0, 2), attn.project.weight.t(), rows, bias=attn.project.bias, addend=rows)

    return run


def _attend_fully(layer: HLGLayer, x: Tensor) -> None:
    """x <- x + norm(attn(x))."""
    attn, norm = layer.attn, layer.norm2
    assert isinstance(attn, FullAttention)
    assert norm is not None
    norm_add(linear(attn.attended(attn.qkv(x)), attn.project.weight), attn.project.bias, norm, x, x)
