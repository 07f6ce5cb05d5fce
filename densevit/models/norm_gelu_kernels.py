"""The step of `lean_gradients` by the kernels of `densevit.kernels`: norm, GELU and its slope in one pass over the map.

Shapes: B batch, H W map, C channels; maps are (B, H, W, C), contiguous.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from densevit.kernels.library import LANES, call, usable
from densevit.kernels.maps import affine_gelu, depthwise, taps
from densevit.models.conv_gradients import Step, conv_gradients, convolve, sum_of_parts

PART_BYTES = 8 * 2**20
"""A linear layer or full convolution takes so much of the map at a time: it is then still in the cache."""


def takes(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether the kernels take this (B, C, H, W) map and norm."""
    return x.shape[1] % LANES == 0 and norm.weight is not None and usable(x, norm.weight)


class NormGeluConv(torch.autograd.Function):
    """`x` is (B, C, H, W), channels-last; keeps `x` alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor | None, bias: Tensor | None, step: Step
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        mean, var = torch.ops.aten.batch_norm_update_stats(x, step.running_mean, step.running_var, step.momentum)
        inverse_std = torch.rsqrt(var + step.eps)
        scale = gamma * inverse_std
        shift = beta - mean * scale
        ctx.save_for_backward(x, scale, shift, mean, inverse_std, weight)
        ctx.stride, ctx.has_bias = step.stride, bias is not None
        map_in = x.permute(0, 2, 3, 1)
        if weight is None:
            out = affine_gelu(map_in, scale, shift)
        elif _is_depthwise(weight, x):
            bias = x.new_zeros(len(weight)) if bias is None else bias
            out = depthwise(map_in, taps(weight), bias, before=(scale, shift), stride=step.stride)
        else:
            parts = (affine_gelu(part, scale, shift) for part in map_in.split(_images_at_once(x)))
            return torch.cat([convolve(part.permute(0, 3, 1, 2), weight, bias, step.stride) for part in parts])
        return out.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, mean, inverse_std, weight = ctx.saved_tensors
        C, rows = x.shape[1], x.numel() // x.shape[1]
        x, grad = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1).contiguous()
        affine, grad_x, grad_weight, grad_bias = (scale, shift, mean), torch.empty_like(x), None, None
        if weight is not None and _is_depthwise(weight, x.permute(0, 3, 1, 2)):
            sums = x.new_zeros(12, C)
            call("depthwise_backward", x, *affine, taps(weight), grad, grad_x, sums, *x.shape, ctx.stride)
            grad_weight, grad_bias, sums = sums[:9].t().reshape(weight.shape), sums[9], sums[10:]
        else:
            sums = x.new_zeros(2, C)
            grad_weight, grad_bias = _backward_in_parts(ctx, x, affine, weight, grad, grad_x, sums)
        of_norm, of_scaled = sums[0], sums[1] * inverse_std
        call("norm_backward", x, scale, mean, of_norm / rows, of_scaled * inverse_std / rows, grad_x, rows, C)
        grad_bias = grad_bias if ctx.has_bias else None
        return grad_x.permute(0, 3, 1, 2), of_scaled, of_norm, grad_weight, grad_bias, None


def _backward_in_parts(
    ctx: Any, x: Tensor, affine: tuple[Tensor, ...], weight: Tensor | None, grad: Tensor, grad_x: Tensor, sums: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Fill `grad_x` with the gradient by the norm's output and add up `sums` (2, C); gradients of weight and bias."""
    images, by_weight, by_bias = _images_at_once(x), [], []
    for part, grad_part, result in zip(x.split(images), grad.split(images), grad_x.split(images), strict=True):
        shape = (part.numel() // part.shape[-1], part.shape[-1])
        if weight is None:
            result.copy_(grad_part)
            call("gelu_backward", part, *affine, result, None, sums, *shape)
        elif weight.dim() == 2:
            rows, output = grad_part.flatten(0, 2), torch.empty_like(part)
            torch.mm(rows, weight, out=result.view(shape))
            call("gelu_backward", part, *affine, result, output, sums, *shape)
            by_weight.append(rows.t() @ output.view(shape))
            by_bias.append(rows.sum(dim=0))
        else:
            output = affine_gelu(part, *affine[:2])
            grads = conv_gradients(
                grad_part.permute(0, 3, 1, 2),
                output.permute(0, 3, 1, 2),
                weight,
                has_bias=ctx.has_bias,
                stride=ctx.stride,
            )
            result.copy_(grads[0].permute(0, 2, 3, 1))
            call("gelu_backward", part, *affine, result, None, sums, *shape)
            by_weight.append(grads[1])
            by_bias.append(grads[2])
    if weight is None:
        return None, None
    return sum_of_parts(by_weight), sum_of_parts(by_bias) if ctx.has_bias else None


def _is_depthwise(weight: Tensor, x: Tensor) -> bool:
    """Whether the weight is that of a 3x3 convolution of every channel of `x` by itself."""
    return weight.dim() == 4 and weight.shape == (x.shape[1], 1, 3, 3)


def _images_at_once(x: Tensor) -> int:
    return max(1, PART_BYTES // (x[0].numel() * x.element_size()))
