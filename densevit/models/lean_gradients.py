"""Batch norm, GELU and the convolution after them as one step of training that keeps one map instead of three.

Autograd keeps the norm's input, its output and that of GELU; here the last two are computed again from the first, for a
part of the batch at a time where they are large: a third of the memory of a wide layer for one more GELU.

Shapes: B batch, H W map, C channels; maps are (B, C, H, W), channels-last.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from densevit.errors import UserError
from densevit.kernels.library import LANES, on_gpu
from densevit.models.conv_gradients import Step, conv_gradients, convolve, sum_of_parts
from densevit.models.norm_gelu_kernels import NormGeluConv, takes, usable_norms
from densevit.models.untouched import has_hooks

LARGEST_BYTES = 28 * 2**20
"""Beyond 32 MB the C library asks the system for every new map's pages, which costs more than what is done on them."""


def check_values_per_channel(norm: nn.BatchNorm2d, x: Tensor) -> None:
    """UserError where a norm would train on nothing, or on one value per channel, whose variance is no number."""
    if norm.training and not x.numel():
        raise UserError(f"batch norm cannot train on an empty batch: its input is {tuple(x.shape)}")
    if norm.training and x.numel() == x.shape[1]:
        raise UserError(
            "batch norm cannot train on one value per channel: the batch is 1 and a map has come down to 1 x 1; "
            "use data.batch_size of at least 2 on each device, or larger images"
        )


def has_running_statistics(norm: nn.BatchNorm2d) -> bool:
    """Whether it is torch's own norm with a running average of its batches, and nothing hangs on its call."""
    running = type(norm) is nn.BatchNorm2d and norm.momentum is not None and norm.running_mean is not None
    return running and norm.weight is not None and not has_hooks(norm)


def keeps_one_map(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether `norm_gelu_conv` takes this norm: batch statistics with running ones beside.

    Synchronised norms and other subclasses go through torch's own modules; so do, where there are no kernels, maps on a
    GPU and all that is compiled.
    """
    if not norm.training or not has_running_statistics(norm):
        return False
    if on_gpu(x) or torch.compiler.is_compiling():
        return norm.num_features % LANES == 0 and usable_norms([norm], x)
    return x.device.type == "cpu"


def norm_gelu_conv(x: Tensor, norm: nn.BatchNorm2d, conv: nn.Linear | nn.Conv2d | None = None) -> Tensor:
    """conv(GELU(norm(x))), or without `conv` GELU(norm(x)); counts the batch in the norm's running statistics.

    A convolution must have an odd kernel and keep the size but for its stride, as all of HLG's do.
    """
    weight, bias = (None, None) if conv is None else (conv.weight, conv.bias)
    step = counted(norm, x, conv)
    if takes(x, norm):
        return NormGeluConv.apply(x, norm.weight, norm.bias, weight, bias, step)
    weight, bias = (None if t is None else t.to(x.dtype) for t in (weight, bias))
    return _NormGeluConv.apply(x, norm.weight, norm.bias, weight, bias, step)


def counted(norm: nn.BatchNorm2d, x: Tensor, conv: nn.Linear | nn.Conv2d | None = None) -> Step:
    """What the step is told of a norm that `keeps_one_map` and the convolution after it; the batch is counted."""
    check_values_per_channel(norm, x)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    stride = conv.stride[0] if isinstance(conv, nn.Conv2d) else 1
    return Step(norm.running_mean, norm.running_var, norm.momentum, norm.eps, stride)


class _NormGeluConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor | None, bias: Tensor | None, step: Step
    ) -> Tensor:
        running, parts = (step.running_mean, step.running_var), x.split(_images_at_once(x))
        if len(parts) == 1:
            y, mean, inverse_std = torch.ops.aten.native_batch_norm(
                x, gamma, beta, *running, True, step.momentum, step.eps
            )
            output = _gelu_conv(y, weight, bias, step.stride)
        else:
            mean, var = torch.ops.aten.batch_norm_update_stats(x, *running, step.momentum)
            inverse_std, affine = torch.rsqrt(var + step.eps), (gamma, beta, False, 0.0, step.eps)
            output = torch.cat(
                [_gelu_conv(F.batch_norm(part, mean, var, *affine), weight, bias, step.stride) for part in parts]
            )
        ctx.save_for_backward(x, gamma, beta, mean, inverse_std, weight)
        ctx.eps, ctx.stride, ctx.has_bias = step.eps, step.stride, bias is not None
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, beta, mean, inverse_std, weight = ctx.saved_tensors
        at_once, var, nothing = _images_at_once(x), inverse_std.pow(-2) - ctx.eps, x.new_empty(0, dtype=mean.dtype)
        grad_normed, weight_grads, bias_grads = torch.empty_like(x), [], []
        for part, grad_part, normed in zip(*(t.split(at_once) for t in (x, grad, grad_normed)), strict=True):
            torch.ops.aten.native_batch_norm.out(
                part, gamma, beta, mean, var, False, 0.0, ctx.eps,
                out=normed, save_mean=nothing, save_invstd=nothing,
            )  # fmt: skip
            if weight is not None:
                grad_part, of_weight, of_bias = conv_gradients(
                    grad_part, F.gelu(normed), weight, has_bias=ctx.has_bias, stride=ctx.stride
                )
                weight_grads.append(of_weight)
                bias_grads.append(of_bias)
            # the gradient by the norm's output takes that output's place
            torch.ops.aten.gelu_backward.grad_input(grad_part, normed, grad_input=normed)
        grad_x, grad_gamma, grad_beta = torch.ops.aten.native_batch_norm_backward(
            grad_normed, x, gamma, None, None, mean, inverse_std, True, ctx.eps, [True] * 3
        )
        grad_weight = None if weight is None else sum_of_parts(weight_grads).to(weight.dtype)
        grad_bias = sum_of_parts(bias_grads).to(grad.dtype) if weight is not None and ctx.has_bias else None
        return grad_x, grad_gamma, grad_beta, grad_weight, grad_bias, None


def _images_at_once(x: Tensor) -> int:
    """The batch in equal parts, such that no map between two steps exceeds `LARGEST_BYTES`."""
    parts = -(-x.numel() * x.element_size() // LARGEST_BYTES)
    return -(-len(x) // parts)


def _gelu_conv(y: Tensor, weight: Tensor | None, bias: Tensor | None, stride: int) -> Tensor:
    """conv(GELU(y)), GELU in place."""
    y = torch.ops.aten.gelu_(y)
    return y if weight is None else convolve(y, weight, bias, stride)
