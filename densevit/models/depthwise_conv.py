"""A 3x3 depth-wise convolution with one or more output channels for each of its input, as one step.

Where there are two, cuDNN takes a convolution in bfloat16 channel by channel (192 kernels and 84 ms for the gradients
of a step of HLG-Small on an H200), and a CPU's library takes three times as long as the kernel.

Shapes: B batch, H W map, C channels; maps are (B, H, W, C), contiguous.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from densevit.kernels.bfloat16 import narrow, widened
from densevit.kernels.library import LANES, call, on_gpu, usable
from densevit.kernels.maps import depthwise, new_sums, taps
from densevit.kernels.pages import new_map_like
from densevit.models.conv_gradients import compute_dtype


def takes(x: Tensor, conv: nn.Module) -> bool:
    """Whether `depthwise_conv` takes this map and module, which the caller has found to be untouched."""
    return (
        type(conv) is nn.Conv2d
        and conv.groups == conv.in_channels == x.shape[-1] > 1
        and (on_gpu(x) or (conv.out_channels in (x.shape[-1], 2 * x.shape[-1]) and conv.out_channels % LANES == 0))
        and conv.kernel_size == (3, 3)
        and conv.padding == conv.dilation == (1, 1)
        and conv.stride in ((1, 1), (2, 2))
        and usable(x, conv.weight, *([] if conv.bias is None else [conv.bias]))
    )


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """(B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), m * C) with `weight` (m * C, 1, 3, 3)."""
    x, bias = x.to(compute_dtype(x)).contiguous(), None if bias is None else bias.contiguous()
    if not torch.is_grad_enabled():
        return depthwise(x, taps(weight), bias, stride=stride)
    return _DepthwiseConv.apply(x, weight, bias, stride)


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(narrow(x), weight)
        ctx.stride, ctx.has_bias = stride, bias is not None
        return depthwise(x, taps(weight), bias, stride=stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        x, grad = widened(x, grad), grad.contiguous()
        grad_x = new_map_like(x)
        sums, places = new_sums(12, grad), (*x.shape, len(weight) // x.shape[-1], ctx.stride)
        call("depthwise_backward", x, None, None, None, taps(weight), grad, grad_x, sums, *places)
        return grad_x, sums[:9].t().reshape(weight.shape), sums[9] if ctx.has_bias else None, None
