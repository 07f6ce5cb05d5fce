"""A 3x3 depth-wise convolution on a GPU, with one or more output channels for each of its input, as one step.

Where there are two, cuDNN takes a convolution in bfloat16 channel by channel: 192 kernels and 84 ms for the gradients
of a step of HLG-Small on an H200. As an operator of its own it stays what it is where `torch.compile` takes the rest.

Shapes: B batch, H W map, C channels; maps are (B, H, W, C), contiguous.
"""

from typing import Any

import torch
from torch import Tensor, nn

from densevit.kernels.library import call, on_gpu, usable
from densevit.kernels.maps import depthwise, new_sums, taps
from densevit.models.conv_gradients import compute_dtype
from densevit.models.untouched import untouched


def takes(x: Tensor, conv: nn.Module) -> bool:
    """Whether `depthwise_conv` takes this map and module."""
    return (
        on_gpu(x)
        and type(conv) is nn.Conv2d
        and conv.groups == conv.in_channels > 1
        and conv.kernel_size == (3, 3)
        and conv.padding == conv.dilation == (1, 1)
        and conv.stride in ((1, 1), (2, 2))
        and (torch.compiler.is_compiling() or untouched(conv, training=conv.training, may_lack_bias=True))
        and usable(x, conv.weight, compiled=True)
    )


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """(B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), m * C) with `weight` (m * C, 1, 3, 3)."""
    return _depthwise_conv(x.to(compute_dtype(x)).contiguous(), weight, bias, stride)


@torch.library.custom_op("densevit::depthwise_conv", mutates_args=())
def _depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    return depthwise(x, taps(weight), bias, stride=stride)


@torch.library.custom_op("densevit::depthwise_conv_backward", mutates_args=())
def _backward(x: Tensor, weight: Tensor, grad: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    grad_x, sums = torch.empty_like(x), new_sums(12, grad)
    call("depthwise_backward", x, None, None, None, taps(weight), grad.contiguous(), grad_x, sums, *x.shape, stride)
    return grad_x, sums[:9].t().to(weight.dtype).contiguous().view(weight.shape), sums[9].clone()


@_depthwise_conv.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    B, H, W, _ = x.shape
    return x.new_empty(B, -(-H // stride), -(-W // stride), len(weight))


@_backward.register_fake
def _(x: Tensor, weight: Tensor, grad: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    sums = x.new_empty(len(weight), dtype=torch.float32)
    return torch.empty_like(x), torch.empty_like(weight, memory_format=torch.contiguous_format), sums


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, int], output: Tensor) -> None:
    x, weight, bias, ctx.stride = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    grad_x, by_weight, by_bias = _backward(x, weight, grad, ctx.stride)
    return grad_x, by_weight, by_bias if ctx.has_bias else None, None


_depthwise_conv.register_autograd(_gradients, setup_context=_keep)
