"""A convolution of a (B, H, W, C) map as an operator, for a compiler, and for images in training on a CPU.

Where PyTorch's compiler sees a convolution on a CPU it lays out all that follows for (B, C, H, W) maps, and takes the
second dimension for channels: maps of this package were turned around and back, up to four copies of each.

The first map after an image is the widest of all; by PyTorch's convolution it is memory that the system clears anew.

Shapes: B batch, H W map, C channels; maps are (B, H, W, C), contiguous.
"""

from typing import Any

import torch
from torch import Tensor, nn

from densevit.kernels.bfloat16 import narrow, widened
from densevit.kernels.library import on_gpu, usable
from densevit.kernels.maps import conv_shape
from densevit.kernels.operators import as_operator
from densevit.kernels.pages import new_map
from densevit.kernels.products import multiply
from densevit.models.conv_gradients import compute_dtype, conv_gradients, convolve, halving_patches

MOST_CHANNELS = 4
"""Of an image. Patches have nine times as many."""


def takes(x: Tensor, conv: nn.Module) -> bool:
    """Whether `map_conv` takes this map and module, which the caller has found to be untouched."""
    if type(conv) is not nn.Conv2d or conv.in_channels != x.shape[-1]:
        return False
    stride = conv.stride[0]
    if not torch.compiler.is_compiling() and not (torch.is_grad_enabled() and _of_images(x, conv.weight, stride)):
        return False
    has_tangents = torch.autograd.forward_ad._current_level >= 0  # to those the operator is a constant
    return keeps_size(conv, stride) and not has_tangents and usable(x, conv.weight)


def keeps_size(conv: nn.Module, stride: int) -> bool:
    """Whether it is a convolution with an odd kernel that keeps a map's size but for this stride."""
    if type(conv) is not nn.Conv2d or conv.dilation != (1, 1) or conv.stride != (stride, stride):
        return False
    size = conv.kernel_size[0]
    return conv.kernel_size[1] == size and size % 2 == 1 and conv.padding == (size // 2, size // 2)


def map_conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """(B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), C') with `weight` (C', C / groups, k, k), k odd."""
    x = x.to(compute_dtype(x)).contiguous()
    return torch.ops.densevit.conv_forward(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), stride)


@as_operator(
    "(Tensor x, Tensor weight, Tensor? bias, int stride) -> Tensor",
    lambda x, weight, bias, stride: x.new_empty(conv_shape(x, len(weight), stride)),
)
def conv_forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    if not _of_images(x, weight, stride):
        return convolve(x.permute(0, 3, 1, 2), weight, bias, stride).permute(0, 2, 3, 1).contiguous()
    out = new_map(*conv_shape(x, len(weight), stride), like=x)
    multiply(halving_patches(x), weight.permute(2, 3, 1, 0).reshape(-1, len(weight)), out.flatten(0, 2), bias=bias)
    return out


def _of_images(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether it is a halving 3x3 convolution of few channels: by patches, into kept memory."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not on_gpu(x)
    return on_cpu and stride == 2 and weight.shape[1:] == (x.shape[-1], 3, 3) and x.shape[-1] <= MOST_CHANNELS


@as_operator(
    "(Tensor grad, Tensor x, Tensor weight, int stride, bool needs_x, bool has_bias) -> (Tensor, Tensor, Tensor)",
    lambda grad, x, weight, stride, needs_x, has_bias: (
        torch.empty_like(x) if needs_x else x.new_empty(0),
        weight.new_empty(weight.shape),
        weight.new_empty(len(weight) if has_bias else 0),
    ),
)
def conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, needs_x: bool, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by input, weight and bias; empty where they are not wanted."""
    maps = grad.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2)
    of_x, of_weight, of_bias = conv_gradients(*maps, weight, has_bias=has_bias, stride=stride, needs_x=needs_x)
    return (
        of_x.permute(0, 2, 3, 1).contiguous() if needs_x else x.new_empty(0),
        of_weight.contiguous(),
        of_bias if has_bias else weight.new_empty(0),
    )


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, int], output: Tensor) -> None:
    x, weight, bias, ctx.stride = inputs
    ctx.save_for_backward(narrow(x), weight)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    x = widened(x, grad)
    needs_x = ctx.needs_input_grad[0]
    gradients = torch.ops.densevit.conv_backward(grad.contiguous(), x, weight, ctx.stride, needs_x, ctx.has_bias)
    return gradients[0] if needs_x else None, gradients[1], gradients[2] if ctx.has_bias else None, None


torch.library.register_autograd("densevit::conv_forward", _backward, setup_context=_keep)
