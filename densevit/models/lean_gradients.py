"""Batch norm, GELU and the convolution after them as one step of training on a CPU that keeps one map instead of three.

Autograd keeps the norm's input, its output and that of GELU; here the last two are computed again from the first, for a
part of the batch at a time where they are large: a third of the memory of a wide layer for one more GELU.

Shapes: B batch, H W map, C channels; maps are (B, C, H, W), channels-last.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densevit.errors import UserError

LARGEST_BYTES = 28 * 2**20
"""Beyond 32 MB the C library asks the system for every new map's pages, which costs more than what is done on them."""


def check_values_per_channel(norm: nn.BatchNorm2d, x: Tensor) -> None:
    """UserError where a norm would train on one value per channel, whose variance is no number."""
    if norm.training and x.numel() == x.shape[1]:
        raise UserError(
            "batch norm cannot train on one value per channel: the batch is 1 and a map has come down to 1 x 1; "
            "use data.batch_size of at least 2 on each device, or larger images"
        )


def keeps_one_map(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether `norm_gelu_conv` takes this norm: batch statistics with running ones beside, on a CPU, not compiled.

    Synchronised norms, other subclasses and other devices go through torch's own modules.
    """
    plain = type(norm) is nn.BatchNorm2d and norm.momentum is not None and norm.running_mean is not None
    return plain and norm.training and x.device.type == "cpu" and not torch.compiler.is_compiling()


def norm_gelu_conv(x: Tensor, norm: nn.BatchNorm2d, conv: nn.Linear | nn.Conv2d | None = None) -> Tensor:
    """conv(GELU(norm(x))), or without `conv` GELU(norm(x)); counts the batch in the norm's running statistics.

    A convolution must have an odd kernel and keep the size but for its stride, as all of HLG's do.
    """
    check_values_per_channel(norm, x)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    weight = bias = None
    if conv is not None:
        weight, bias = conv.weight.to(x.dtype), None if conv.bias is None else conv.bias.to(x.dtype)
    stride = conv.stride[0] if isinstance(conv, nn.Conv2d) else 1
    running = (norm.running_mean, norm.running_var)
    return _NormGeluConv.apply(x, norm.weight, norm.bias, running, norm.momentum, norm.eps, weight, bias, stride)


class _NormGeluConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        running: tuple[Tensor, Tensor],
        momentum: float,
        eps: float,
        weight: Tensor | None,
        bias: Tensor | None,
        stride: int,
    ) -> Tensor:
        parts = x.split(_images_at_once(x))
        if len(parts) == 1:
            y, mean, inverse_std = torch.ops.aten.native_batch_norm(
                x, norm_weight, norm_bias, *running, True, momentum, eps
            )
            output = _gelu_conv(y, weight, bias, stride)
        else:
            mean, var = torch.ops.aten.batch_norm_update_stats(x, *running, momentum)
            inverse_std, affine = torch.rsqrt(var + eps), (norm_weight, norm_bias, False, 0.0, eps)
            output = torch.cat(
                [_gelu_conv(F.batch_norm(part, mean, var, *affine), weight, bias, stride) for part in parts]
            )
        ctx.save_for_backward(x, norm_weight, norm_bias, mean, inverse_std, weight)
        ctx.eps, ctx.stride, ctx.has_bias = eps, stride, bias is not None
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, mean, inverse_std, weight = ctx.saved_tensors
        at_once, var, nothing = _images_at_once(x), inverse_std.pow(-2) - ctx.eps, x.new_empty(0, dtype=mean.dtype)
        grad_normed, weight_grads, bias_grads = torch.empty_like(x), [], []
        for part, grad_part, normed in zip(*(t.split(at_once) for t in (x, grad, grad_normed)), strict=True):
            torch.ops.aten.native_batch_norm.out(
                part, norm_weight, norm_bias, mean, var, False, 0.0, ctx.eps,
                out=normed, save_mean=nothing, save_invstd=nothing,
            )  # fmt: skip
            if weight is not None:
                grad_part, of_weight, of_bias = _gradients(
                    grad_part, F.gelu(normed), weight, has_bias=ctx.has_bias, stride=ctx.stride
                )
                weight_grads.append(of_weight)
                bias_grads.append(of_bias)
            torch.ops.aten.gelu_backward.grad_input(
                grad_part, normed, grad_input=normed
            )  # its gradient takes its place
        grad_x, grad_norm_weight, grad_norm_bias = torch.ops.aten.native_batch_norm_backward(
            grad_normed, x, norm_weight, None, None, mean, inverse_std, True, ctx.eps, [True] * 3
        )
        grad_weight = None if weight is None else _sum(weight_grads).to(weight.dtype)
        grad_bias = _sum(bias_grads).to(grad.dtype) if weight is not None and ctx.has_bias else None
        return grad_x, grad_norm_weight, grad_norm_bias, None, None, None, grad_weight, grad_bias, None


def _images_at_once(x: Tensor) -> int:
    """The batch in equal parts, such that no map between two steps exceeds `LARGEST_BYTES`."""
    parts = -(-x.numel() * x.element_size() // LARGEST_BYTES)
    return -(-len(x) // parts)


def _sum(parts: list[Tensor]) -> Tensor:
    """In float32 at least: parts in bfloat16 would round again and again."""
    if len(parts) == 1:
        return parts[0]
    return torch.stack(parts).sum(dim=0, dtype=torch.promote_types(parts[0].dtype, torch.float32))


def _gelu_conv(y: Tensor, weight: Tensor | None, bias: Tensor | None, stride: int) -> Tensor:
    """conv(GELU(y)), GELU in place."""
    y = torch.ops.aten.gelu_(y)
    return y if weight is None else _convolve(y, weight, bias, stride)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """A linear layer's weight (C', C), or a convolution's (C', C / groups, k, k), on (B, C, H, W)."""
    if weight.dim() == 2:
        return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, 1, x.shape[1] // weight.shape[1])


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, *, has_bias: bool, stride: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `_convolve` by its input, weight and, where it has one, bias."""
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
