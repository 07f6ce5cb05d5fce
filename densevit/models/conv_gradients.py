"""Convolutions and linear layers on (B, C, H, W) maps, channels-last, with their gradients: what autograd would call.

Shapes: B batch, H W map, C channels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Step(NamedTuple):
    """What a batch norm and the convolution after it are told beside their weights."""

    running_mean: Tensor
    running_var: Tensor
    momentum: float
    eps: float
    stride: int


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """A linear layer's weight (C', C), or a convolution's (C', C / groups, k, k), on (B, C, H, W)."""
    if weight.dim() == 2:
        return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, 1, x.shape[1] // weight.shape[1])


def conv_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, *, has_bias: bool, stride: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `convolve` by its input, weight and, where it has one, bias."""
    if weight.dim() == 2:
        rows, inputs = grad.permute(0, 2, 3, 1).flatten(0, 2), x.permute(0, 2, 3, 1)
        grad_x = (rows @ weight).view(inputs.shape).permute(0, 3, 1, 2)
        return grad_x, rows.t() @ inputs.flatten(0, 2), rows.sum(dim=0)
    channels, groups = weight.shape[0], x.shape[1] // weight.shape[1]
    grad = grad.contiguous(memory_format=torch.channels_last)
    slow = groups == channels == x.shape[1] and x.dtype == torch.bfloat16
    own_x = _depthwise_input_gradient(grad, x, weight, stride) if slow else None
    if slow:  # float32 is faster for the weight, and rounds less
        grad, x = grad.float(), x.float()
    library_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad, x, weight.to(x.dtype), [channels], [stride] * 2, [weight.shape[-1] // 2] * 2, [1, 1], False, [0, 0],
        groups, [not slow, True, has_bias],
    )  # fmt: skip
    return library_x if own_x is None else own_x, grad_weight, grad_bias


def _depthwise_input_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """In bfloat16 the library's own at stride 2 costs twenty times its forward.

    This is a convolution of stride 1 of the gradient spread over every second cell.
    """
    if stride > 1:
        spread = torch.zeros_like(x, memory_format=torch.channels_last)
        spread[:, :, ::stride, ::stride] = grad
        grad = spread
    return F.conv2d(grad, weight.flip(2, 3), None, 1, weight.shape[-1] // 2, 1, weight.shape[0])


def sum_of_parts(parts: list[Tensor]) -> Tensor:
    """In float32 at least: parts in bfloat16 would round again and again."""
    if len(parts) == 1:
        return parts[0]
    return torch.stack(parts).sum(dim=0, dtype=torch.promote_types(parts[0].dtype, torch.float32))
