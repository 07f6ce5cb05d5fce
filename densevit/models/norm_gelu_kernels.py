"""The step of `lean_gradients` by the kernels of `densevit.kernels`: norm, GELU and its slope in one pass over the map.

Shapes: B batch, H W map, C channels; maps are (B, H, W, C), contiguous.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from densevit.kernels.library import LANES, call, on_gpu, usable
from densevit.kernels.maps import affine_gelu, new_sums, sum_of_rows
from densevit.kernels.pages import new_map, new_map_like
from densevit.kernels.products import multiply
from densevit.models.conv_gradients import Step, conv_gradients, convolve, sum_of_parts

PART_BYTES = 8 * 2**20
"""On a CPU a linear layer or full convolution takes so much of the map at a time: it is then still in the cache."""
GPU_PART_BYTES = 2**30
"""On a GPU, so that little beside the maps that are kept needs memory."""


def takes(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether the kernels take this (B, C, H, W) map and norm."""
    return x.shape[1] % LANES == 0 and norm.weight is not None and usable(x, norm.weight)


class Affine(NamedTuple):
    """A batch norm with the statistics of its batch: x * scale + shift = (x - mean) * inverse_std * gamma + beta."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    inverse_std: Tensor


def batch_norm(x: Tensor, gamma: Tensor, beta: Tensor, step: Step) -> Affine:
    """The norm of this batch; counted in its running statistics."""
    vectors = torch.empty(4, x.shape[-1], dtype=torch.float32, device=x.device)
    running = (step.running_mean, step.running_var)
    call("batch_norm", x, gamma, beta, *running, vectors, x[..., 0].numel(), x.shape[-1], step.momentum, step.eps)
    return Affine(*vectors.unbind())


class NormGradients(NamedTuple):
    """Of a batch norm: by gamma and beta, and what `norm_backward` takes off the gradient by its output."""

    of_gamma: Tensor
    of_beta: Tensor
    offset: Tensor
    slope: Tensor


def norm_gradients(x: Tensor, norm: Affine, sums: Tensor) -> NormGradients:
    """From the sums (2, C), over the whole batch `x`, of the gradient by the norm's output and of it times x - mean."""
    of_beta, of_gamma, rows = sums[0], sums[1] * norm.inverse_std, x[..., 0].numel()
    return NormGradients(of_gamma, of_beta, of_beta / rows, of_gamma * norm.inverse_std / rows)


def norm_backward(x: Tensor, norm: Affine, gradients: NormGradients, grad: Tensor, grad_x: Tensor) -> None:
    """grad_x <- the gradient by `x` from that by the norm's output; it may be `grad`. All or a part of the batch."""
    means = gradients.offset, gradients.slope
    call("norm_backward", x, norm.scale, norm.mean, *means, grad, grad_x, x[..., 0].numel(), x.shape[-1])


def linear(x: Tensor, norm: Affine, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer on GELU(norm(x))."""
    out = new_map(*x.shape[:3], len(weight), like=x)
    for part, result in parts(x, out):
        rows = affine_gelu(part, *norm[:2]).flatten(0, 2)
        multiply(rows, weight.t(), result.flatten(0, 2), bias=bias)
    return out


def linear_backward(
    x: Tensor, norm: Affine, weight: Tensor, grad: Tensor, grad_x: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor]:
    """Of a linear layer on GELU(norm(x)): its gradients of weight and bias; `grad_x` takes that by the norm's output.

    `sums` (2, C) are added up for `norm_backward`.
    """
    by_weight, by_bias = torch.zeros_like(weight), weight.new_zeros(len(weight))
    for part, grad_part, result in parts(x, grad, grad_x):
        rows, output, shape = grad_part.flatten(0, 2), new_map_like(part), (part[..., 0].numel(), part.shape[-1])
        multiply(rows, weight, result.view(shape))
        call("gelu_backward", part, *norm[:3], result, output, sums, *shape)
        by_weight.addmm_(rows.t(), output.view(shape))
        by_bias += sum_of_rows(rows)
    return by_weight, by_bias


def parts(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Equal parts of the batch, of all maps, with no more than `PART_BYTES` of `x` where an image has less.

    A compiler gets the batch whole: to it every part would be code of its own, and every number of parts a new graph.
    """
    if torch.compiler.is_compiling():
        return iter([(x, *others)])
    count = -(-x.numel() * x.element_size() // (GPU_PART_BYTES if on_gpu(x) else PART_BYTES))
    return zip(*(t.split(-(-len(x) // count)) for t in (x, *others)), strict=True)


class NormGeluConv(torch.autograd.Function):
    """`x` is (B, C, H, W), channels-last; keeps `x` alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor | None, bias: Tensor | None, step: Step
    ) -> Tensor:
        x = x.permute(0, 2, 3, 1).contiguous()
        norm = batch_norm(x, gamma, beta, step)
        ctx.save_for_backward(x, weight, *norm)
        ctx.stride, ctx.has_bias = step.stride, bias is not None
        if weight is None:
            return affine_gelu(x, *norm[:2]).permute(0, 3, 1, 2)
        if weight.dim() == 2:
            return linear(x, norm, weight, bias).permute(0, 3, 1, 2)
        normed = (affine_gelu(part, *norm[:2]).permute(0, 3, 1, 2) for (part,) in parts(x))
        outputs = [convolve(part, weight, bias, step.stride) for part in normed]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *rest = ctx.saved_tensors
        norm, grad, grad_x = Affine(*rest), grad.permute(0, 2, 3, 1).contiguous(), new_map_like(x)
        sums, by_weight, by_bias = new_sums(2, x), None, None
        if weight is not None and weight.dim() == 2:
            by_weight, by_bias = linear_backward(x, norm, weight, grad, grad_x, sums)
        elif weight is not None:
            by_weight, by_bias = _conv_backward(ctx, x, norm, weight, grad, grad_x, sums)
        else:
            grad_x.copy_(grad)
            call("gelu_backward", x, *norm[:3], grad_x, None, sums, x[..., 0].numel(), x.shape[-1])
        gradients = norm_gradients(x, norm, sums)
        norm_backward(x, norm, gradients, grad_x, grad_x)
        return grad_x.permute(0, 3, 1, 2), *gradients[:2], by_weight, by_bias if ctx.has_bias else None, None


def _conv_backward(
    ctx: Any, x: Tensor, norm: Affine, weight: Tensor, grad: Tensor, grad_x: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor | None]:
    """As `linear_backward`, of a convolution."""
    by_weight, by_bias = [], []
    for part, grad_part, result in parts(x, grad, grad_x):
        grads = conv_gradients(
            grad_part.permute(0, 3, 1, 2),
            affine_gelu(part, *norm[:2]).permute(0, 3, 1, 2),
            weight,
            has_bias=ctx.has_bias,
            stride=ctx.stride,
        )
        result.copy_(grads[0].permute(0, 2, 3, 1))
        call("gelu_backward", part, *norm[:3], result, None, sums, part[..., 0].numel(), part.shape[-1])
        by_weight.append(grads[1])
        by_bias.append(grads[2])
    return sum_of_parts(by_weight), sum_of_parts(by_bias) if ctx.has_bias else None
