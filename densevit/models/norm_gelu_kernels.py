"""The step of `lean_gradients` by the kernels of `densevit.kernels`: norm, GELU and its slope in one pass over the map.

Shapes: B batch, H W map, C channels; maps are (B, H, W, C), contiguous.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from densevit.kernels.bfloat16 import narrow, widened
from densevit.kernels.library import LANES, call, on_gpu, usable
from densevit.kernels.maps import add_rows, affine_gelu, conv_shape, new_sums
from densevit.kernels.operators import as_operator
from densevit.kernels.pages import new_map, new_map_like
from densevit.kernels.products import add_outer, multiply, outer_dtype
from densevit.models.conv_gradients import Step, conv_gradients, convolve, sum_of_parts

PART_BYTES = 8 * 2**20
"""On a CPU a linear layer or full convolution takes so much of the map at a time: it is then still in the cache."""
GPU_PART_BYTES = 2**30
"""On a GPU, so that little beside the maps that are kept needs memory."""


def takes(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether the kernels take this (B, C, H, W) map and norm."""
    return x.shape[1] == norm.num_features and x.shape[1] % LANES == 0 and usable_norms([norm], x)


def usable_norms(norms: Sequence[nn.BatchNorm2d], *maps: Tensor) -> bool:
    """`usable` for these maps and what the kernels read and write of the norms: all of it there, and without gaps."""
    tensors: list[Tensor] = []
    for norm in norms:
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            if tensor is None or not tensor.is_contiguous():
                return False
            tensors.append(tensor)
    return usable(*maps, *tensors)


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
    sizes, rates = (x[..., 0].numel(), x.shape[-1]), (float(step.momentum), float(step.eps))
    call("batch_norm", x, gamma, beta, *running, vectors, *sizes, *rates)
    return Affine(*vectors.unbind())


def norm_backward(x: Tensor, norm: Affine, sums: Tensor, grad: Tensor, grad_x: Tensor, *, cells: int) -> None:
    """grad_x <- the gradient by `x` from that by the norm's output; it may be `grad`. All or a part of the batch.

    `sums` (2, C) are those over the `cells` of the whole batch: of the gradient by the norm's output, and of it times
    x - mean.
    """
    tail = (x[..., 0].numel(), x.shape[-1], cells)
    call("norm_backward", x, norm.scale, norm.mean, norm.inverse_std, sums, grad, grad_x, *tail)


def by_gamma_and_beta(norm: Affine, sums: Tensor) -> tuple[Tensor, Tensor]:
    """A norm's gradients, from the `sums` that `norm_backward` takes."""
    return sums[1] * norm.inverse_std, sums[0]


def linear(x: Tensor, norm: Affine, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer on GELU(norm(x))."""
    return gelu_linear(x, norm.scale, norm.shift, weight, bias)


@as_operator(
    "(Tensor x, Tensor scale, Tensor shift, Tensor weight, Tensor? bias) -> Tensor",
    lambda x, scale, shift, weight, bias: x.new_empty(*x.shape[:3], len(weight)),
)
def gelu_linear(x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `linear` runs."""
    out = new_map(*x.shape[:3], len(weight), like=x)
    for part, result in parts(x, out):
        rows = affine_gelu(part, scale, shift).flatten(0, 2)
        multiply(rows, weight.t(), result.flatten(0, 2), bias=bias)
    return out


def linear_backward(
    x: Tensor, norm: Affine, weight: Tensor, grad: Tensor, grad_x: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor]:
    """Of a linear layer on GELU(norm(x)): its gradients of weight and bias; `grad_x` takes that by the norm's output.

    `sums` (2, C) are added up for `norm_backward`.
    """
    return gelu_linear_backward(x, *norm[:3], weight, grad, grad_x, sums)


def _of_layer(weight: Tensor) -> tuple[Tensor, Tensor]:
    dtype = outer_dtype(weight)
    return weight.new_empty(weight.shape, dtype=dtype), weight.new_empty(len(weight), dtype=dtype)


@as_operator(
    "(Tensor x, Tensor scale, Tensor shift, Tensor mean, Tensor weight, Tensor grad, Tensor(a!) grad_x, "
    "Tensor(b!) sums) -> (Tensor, Tensor)",
    lambda x, scale, shift, mean, weight, grad, grad_x, sums: _of_layer(weight),
)
def gelu_linear_backward(
    x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, weight: Tensor, grad: Tensor, grad_x: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor]:
    """What `linear_backward` runs."""
    by_weight = by_bias = None
    for part, grad_part, result in parts(x, grad, grad_x):
        rows, output, shape = grad_part.flatten(0, 2), new_map_like(part), (part[..., 0].numel(), part.shape[-1])
        multiply(rows, weight, result.view(shape))
        call("gelu_backward", part, scale, shift, mean, result, output, sums, *shape)
        by_weight = add_outer(by_weight, rows, output.view(shape))
        by_bias = add_rows(by_bias, rows)
    assert by_weight is not None
    assert by_bias is not None
    return by_weight, by_bias


def parts(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Equal parts of the batch, of all maps, with no more than `PART_BYTES` of `x` where an image has less.

    A compiler gets the batch whole: to it every part would be code of its own, and every number of parts a new graph.
    Where maps are wide the loop is an operator, see `as_operator`.
    """
    count = 1 if torch.compiler.is_compiling() else -(-x.nbytes // (GPU_PART_BYTES if on_gpu(x) else PART_BYTES))
    if count <= 1:
        return iter([(x, *others)])
    return zip(*(t.split(-(-len(x) // count)) for t in (x, *others)), strict=True)


class NormGeluConv(torch.autograd.Function):
    """`x` is (B, C, H, W), channels-last; keeps `x` alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor | None, bias: Tensor | None, step: Step
    ) -> Tensor:
        x = x.permute(0, 2, 3, 1).contiguous()
        weight, bias = (None if t is None else t.to(x.dtype) for t in (weight, bias))
        norm = batch_norm(x, gamma, beta, step)
        ctx.save_for_backward(narrow(x), weight, *norm)
        ctx.stride, ctx.has_bias = step.stride, bias is not None
        if weight is None:
            return affine_gelu(x, *norm[:2]).permute(0, 3, 1, 2)
        if weight.dim() == 2:
            return linear(x, norm, weight, bias).permute(0, 3, 1, 2)
        return gelu_conv(x, norm.scale, norm.shift, weight, bias, step.stride).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *rest = ctx.saved_tensors
        x = widened(x, grad)
        norm, grad, grad_x = Affine(*rest), grad.permute(0, 2, 3, 1).contiguous(), new_map_like(x)
        sums, by_weight, by_bias = new_sums(2, x), None, None
        if weight is not None and weight.dim() == 2:
            by_weight, by_bias = linear_backward(x, norm, weight, grad, grad_x, sums)
        elif weight is not None:
            of_conv = (ctx.has_bias, ctx.stride)
            by_weight, by_bias = gelu_conv_backward(x, *norm[:3], weight, grad, grad_x, sums, *of_conv)
        else:
            grad_x.copy_(grad)
            call("gelu_backward", x, *norm[:3], grad_x, None, sums, x[..., 0].numel(), x.shape[-1])
        norm_backward(x, norm, sums, grad_x, grad_x, cells=x[..., 0].numel())
        grad_x, by_norm = grad_x.permute(0, 3, 1, 2), by_gamma_and_beta(norm, sums)
        return grad_x, *by_norm, by_weight, by_bias if ctx.has_bias else None, None


@as_operator(
    "(Tensor x, Tensor scale, Tensor shift, Tensor weight, Tensor? bias, int stride) -> Tensor",
    lambda x, scale, shift, weight, bias, stride: x.new_empty(conv_shape(x, len(weight), stride)),
)
def gelu_conv(x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """A convolution on GELU(norm(x)): (B, H, W, C) -> (B, H', W', C')."""
    normed = (affine_gelu(part, scale, shift).permute(0, 3, 1, 2) for (part,) in parts(x))
    outputs = [convolve(part, weight, bias, stride).permute(0, 2, 3, 1).contiguous() for part in normed]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


@as_operator(
    "(Tensor x, Tensor scale, Tensor shift, Tensor mean, Tensor weight, Tensor grad, Tensor(a!) grad_x, "
    "Tensor(b!) sums, bool has_bias, int stride) -> (Tensor, Tensor)",
    lambda x, scale, shift, mean, weight, grad, grad_x, sums, has_bias, stride: (
        weight.new_empty(weight.shape, dtype=torch.float32),
        weight.new_empty(len(weight) if has_bias else 0, dtype=torch.float32),
    ),
)
def gelu_conv_backward(
    x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, weight: Tensor, grad: Tensor, grad_x: Tensor, sums: Tensor,
    has_bias: bool, stride: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `linear_backward`, of a convolution, in float32; without a bias its gradient is empty."""
    by_weight, by_bias = [], []
    for part, grad_part, result in parts(x, grad, grad_x):
        grads = conv_gradients(
            grad_part.permute(0, 3, 1, 2),
            affine_gelu(part, scale, shift).permute(0, 3, 1, 2),
            weight,
            has_bias=has_bias,
            stride=stride,
        )
        result.copy_(grads[0].permute(0, 2, 3, 1))
        call("gelu_backward", part, scale, shift, mean, result, None, sums, part[..., 0].numel(), part.shape[-1])
        by_weight.append(grads[1])
        by_bias.append(grads[2])
    of_bias = sum_of_parts(by_bias) if has_bias else weight.new_empty(0)
    return sum_of_parts(by_weight).float().contiguous(), of_bias.float()
