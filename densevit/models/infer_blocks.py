"""Blocks of convolution, batch norm and GELU after each other in inference, as one operator, for a compiler alone.

A compiler would write out every part of a batch; taken whole, the maps between the stem's convolutions are the largest
of all.

Shapes: B batch, H W map, C channels; maps are (B, H, W, C), contiguous.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from densevit.kernels.library import LANES, on_gpu, usable
from densevit.kernels.maps import affine_gelu, conv_shape
from densevit.kernels.operators import as_operator
from densevit.kernels.products import linear
from densevit.models.conv_gradients import compute_dtype, convolve
from densevit.models.conv_norm import CACHED_ELEMENTS, ConvNorm
from densevit.models.hlg_kernels import GPU_PART_BYTES
from densevit.models.map_conv import keeps_size
from densevit.models.untouched import untouched


def takes(blocks: nn.Sequential, x: Tensor) -> bool:
    """Whether `infer_blocks` takes this map and these blocks."""
    weights: list[Tensor] = []
    if not torch.compiler.is_compiling() or torch.is_grad_enabled() or not all(type(b) is ConvNorm for b in blocks):
        return False
    if not untouched(blocks, training=False, found=weights) or not usable(x, *weights):
        return False
    return all(_fits(block) for block in cast(list[ConvNorm], list(blocks)))


def _fits(block: ConvNorm) -> bool:
    linear_layer = type(block.conv) is nn.Linear and block.stride == 1
    own = linear_layer or keeps_size(block.conv, block.stride)
    return own and block.act and block.dim % LANES == 0 and block.conv.bias is None


def infer_blocks(blocks: nn.Sequential, x: Tensor, *, peak: int) -> Tensor:
    """blocks(x); `peak` is the largest map's elements per image."""
    own, x = cast(list[ConvNorm], list(blocks)), x.to(compute_dtype(x)).contiguous()
    images = max(1, (GPU_PART_BYTES // x.element_size() if on_gpu(x) else CACHED_ELEMENTS) // peak)
    scales, shifts = zip(*(block.affine() for block in own), strict=True)
    weights, strides = [block.conv.weight.to(x.dtype) for block in own], [block.stride for block in own]
    return conv_norm_gelus(x, weights, list(scales), list(shifts), strides, images)


def _empty(x: Tensor, weights: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    for weight, stride in zip(weights, strides, strict=True):
        x = x.new_empty(conv_shape(x, len(weight), stride))
    return x


@as_operator(
    "(Tensor x, Tensor[] weights, Tensor[] scales, Tensor[] shifts, int[] strides, int images) -> Tensor",
    lambda x, weights, scales, shifts, strides, images: _empty(x, weights, strides),
)
def conv_norm_gelus(
    x: Tensor, weights: list[Tensor], scales: list[Tensor], shifts: list[Tensor], strides: list[int], images: int
) -> Tensor:
    """GELU(conv(x) * scale + shift), one after the other, so many `images` at a time."""
    outputs = []
    for part in x.split(images):
        for weight, scale, shift, stride in zip(weights, scales, shifts, strides, strict=True):
            if weight.dim() == 2:
                part = linear(part, weight)
            else:
                part = convolve(part.permute(0, 3, 1, 2), weight, None, stride).permute(0, 2, 3, 1).contiguous()
            part = affine_gelu(part, scale, shift, out=part)
        outputs.append(part)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
