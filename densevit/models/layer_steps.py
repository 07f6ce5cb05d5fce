"""Training steps of an HLG layer by `densevit.kernels`, each a forward and a backward pass of its own.

What they have in common: normed maps are computed again instead of kept, maps are added up on the way, and a map that
is needed again later is handed through, so that its two gradients meet in the step's own pass.

Shapes: B batch, H W map, C channels; maps are (B, H, W, C), contiguous.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from densevit.kernels.attention import runs
from densevit.kernels.bfloat16 import narrow, widened
from densevit.kernels.library import call
from densevit.kernels.maps import add_rows, depthwise, new_sums, taps
from densevit.kernels.pages import new_map, new_map_like
from densevit.kernels.products import add_outer, multiply, sum_of_products
from densevit.models.conv_gradients import Step
from densevit.models.norm_gelu_kernels import Affine, batch_norm, by_gamma_and_beta, norm_backward, parts
from densevit.models.windows import Run, WindowGrid


def _rows(x: Tensor) -> tuple[int, int]:
    return x.numel() // x.shape[-1], x.shape[-1]


def _normed(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    out, (rows, C) = new_map_like(x), _rows(x)
    call("norm_add", x, None, weight, bias, None, None, out, rows, C, rows, eps)
    return out


def _norm_backward(
    x: Tensor, weight: Tensor, eps: float, grad: Tensor, grad_x: Tensor, sums: Tensor,
    *, factors: Tensor | None = None, addend: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """grad_x <- the gradient of factor * LN(x) by x, plus `addend`; `sums` (2, C) takes those of weight and bias."""
    rows, C = _rows(x)
    call("layer_norm_backward", x, weight, grad, factors, addend, grad_x, sums, rows, C, rows // len(x), eps)
    return grad_x


class NormAdd(torch.autograd.Function):
    """LN(x) * factor + residual; `factors` (B, 1, 1, 1) are those of stochastic depth, or None."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, factors: Tensor | None, eps: float
    ) -> Tensor:
        x, residual, (rows, C) = x.contiguous(), residual.contiguous(), _rows(x)
        ctx.save_for_backward(narrow(x), weight, factors)
        ctx.eps, out = eps, new_map_like(x)
        call("norm_add", x, None, weight, bias, residual, factors, out, rows, C, rows // len(x), eps)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factors = ctx.saved_tensors
        x, grad, sums = widened(x, grad), grad.contiguous(), new_sums(2, x)
        grad_x = _norm_backward(x, weight, ctx.eps, grad, new_map_like(x), sums, factors=factors)
        return grad_x, *sums, grad, None, None


class LinearBeside(torch.autograd.Function):
    """(x, weight) -> (x, x @ weight.t()); `kept`, unless None, is kept of x instead."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        weight = weight.to(x.dtype)
        ctx.save_for_backward(x if kept is None else kept, weight)
        out = new_map(*x.shape[:3], len(weight), like=x)
        multiply(x.flatten(0, 2), weight.t(), out.flatten(0, 2))
        return x.view_as(x), out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_out: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        x = widened(x, grad)
        rows, grad_x = grad_out.contiguous().flatten(0, 2), new_map_like(x)
        multiply(rows, weight, grad_x.flatten(0, 2), addend=grad.contiguous().flatten(0, 2))
        return grad_x, add_outer(None, rows, x.flatten(0, 2)), None


class Linear(torch.autograd.Function):
    """x @ weight.t() + bias of (B, ..., C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        ctx.save_for_backward(narrow(x), weight)
        out = new_map(*x.shape[:-1], len(weight), like=x)
        multiply(x.flatten(0, -2), weight.t(), out.flatten(0, -2), bias=bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        x, rows = widened(x, grad), grad.contiguous().flatten(0, -2)
        grad_x = new_map_like(x)
        multiply(rows, weight, grad_x.flatten(0, -2))
        return grad_x, add_outer(None, rows, x.flatten(0, -2)), add_rows(None, rows)


class AddGelu(torch.autograd.Function):
    """GELU(x + norm(y)) with a batch norm; `kept`, unless None, is kept of x instead."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, gamma: Tensor, beta: Tensor, step: Step, kept: Tensor | None) -> Tensor:
        y, out = y.contiguous(), new_map_like(x)
        norm = batch_norm(y, gamma, beta, step)
        ctx.save_for_backward(x if kept is None else kept, narrow(y), *norm)
        call("add_gelu", x, y, *norm[:2], out, *_rows(x))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *rest = ctx.saved_tensors
        x, y = widened(x, grad), widened(y, grad)
        norm, grad_x, grad_y, sums = Affine(*rest), new_map_like(x), new_map_like(y), new_sums(2, x)
        call("add_gelu_backward", x, y, *norm[:3], grad.contiguous(), grad_x, sums, *_rows(x))
        norm_backward(y, norm, sums, grad_x, grad_y, cells=y[..., 0].numel())
        return grad_x, grad_y, *by_gamma_and_beta(norm, sums), None, None


class NormLinear(torch.autograd.Function):
    """(x, norm's weight and bias, eps, weight and bias of each layer) -> x and each linear layer on LN(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, *layers: Tensor) -> tuple[Tensor, ...]:
        layers = tuple(layer.to(x.dtype) for layer in layers)
        ctx.save_for_backward(narrow(x), weight, bias, *layers[::2])
        ctx.eps, outputs = eps, [new_map(*x.shape[:3], len(matrix), like=x) for matrix in layers[::2]]
        for part, *results in parts(x, *outputs):
            rows = _normed(part, weight, bias, eps).flatten(0, 2)
            for matrix, shift, result in zip(layers[::2], layers[1::2], results, strict=True):
                multiply(rows, matrix.t(), result.flatten(0, 2), bias=shift)
        return x.view_as(x), *outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_x: Tensor, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, *matrices = ctx.saved_tensors
        x = widened(x, grad_x)
        sums, total = new_sums(2, x), new_map_like(x)
        by_weight: list[Tensor | None] = [None] * len(matrices)
        by_bias: list[Tensor | None] = [None] * len(matrices)
        for part, addend, result, *of_outputs in parts(x, grad_x.contiguous(), total, *(g.contiguous() for g in grads)):
            normed = _normed(part, weight, bias, ctx.eps).flatten(0, 2)
            rows = [grad.flatten(0, 2) for grad in of_outputs]
            for index, grad in enumerate(rows):
                by_weight[index] = add_outer(by_weight[index], grad, normed)
                by_bias[index] = add_rows(by_bias[index], grad)
            of_normed = sum_of_products(list(zip(rows, matrices, strict=True)))
            _norm_backward(part, weight, ctx.eps, of_normed, result, sums, addend=addend)
        layers = zip(by_weight, by_bias, strict=True)
        return total, *sums, None, *(grad for pair in layers for grad in pair)


class MixQuery(torch.autograd.Function):
    """(x, local, q) -> x + local and q + conv(LN(local)), a 3x3 depth-wise convolution (Eq. 9).

    `weights` are those of norm and convolution, weight and bias each.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, local: Tensor, q: Tensor, eps: float, *weights: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias, kernel, shift = weights
        x, local, q = x.contiguous(), local.contiguous(), q.contiguous()
        total, normed = new_map_like(x), new_map_like(x)
        call("add_norm", x, local, weight, bias, total, normed, *_rows(x), eps)
        ctx.save_for_backward(narrow(local), weight, bias, kernel)
        ctx.eps = eps
        return total, depthwise(normed, taps(kernel), shift, addend=q)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_q: Tensor) -> tuple[Tensor | None, ...]:
        local, weight, bias, kernel = ctx.saved_tensors
        local = widened(local, grad)
        grad, grad_q, of_normed = grad.contiguous(), grad_q.contiguous(), new_map_like(local)
        normed, of_kernel = _normed(local, weight, bias, ctx.eps), new_sums(12, local)
        places = (*local.shape, 1, 1)
        call("depthwise_backward", normed, None, None, None, taps(kernel), grad_q, of_normed, of_kernel, *places)
        sums = new_sums(2, local)
        of_local = _norm_backward(local, weight, ctx.eps, of_normed, of_normed, sums, addend=grad)
        return grad, of_local, grad_q, None, *sums, of_kernel[:9].t().reshape(kernel.shape), of_kernel[9]


class PoolWindows(torch.autograd.Function):
    """(x, grid) -> x and the mean of each of its windows (B, windows, C), in canonical order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: WindowGrid) -> tuple[Tensor, Tensor]:
        down, across = grid.num_windows
        ctx.grid, pooled = grid, x.new_empty(len(x), down * across, x.shape[-1])
        for group, place in _places(grid):
            call("pool_windows", x, pooled, *x.shape, *runs(group), place, down, across)
        return x.view_as(x), pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_pooled: Tensor) -> tuple[Tensor, None]:
        grad, grad_pooled, grad_x = grad.contiguous(), grad_pooled.contiguous(), new_map_like(grad)
        for group, place in _places(ctx.grid):
            tail = (*runs(group), place, *ctx.grid.num_windows)
            call("pool_windows_backward", grad_pooled, grad, grad_x, *grad.shape, *tail)
        return grad_x, None


def _places(grid: WindowGrid) -> Iterator[tuple[tuple[Run, Run], int]]:
    """Each group of a grid, and the number of its first window."""
    top, (_, across) = 0, grid.num_windows
    for run_y in grid.runs_y:
        left = 0
        for run_x in grid.runs_x:
            yield (run_y, run_x), top * across + left
            left += run_x.windows
        top += run_y.windows


class LinearAdd(torch.autograd.Function):
    """residual + factor * linear(x); `factors` as in `NormAdd`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, factors: Tensor | None) -> Tensor:
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        ctx.save_for_backward(narrow(x), weight, factors)
        out, rows = new_map_like(residual), x.flatten(0, 2)
        if factors is None:
            multiply(rows, weight.t(), out.flatten(0, 2), bias=bias, addend=residual.contiguous().flatten(0, 2))
            return out
        multiply(rows, weight.t(), out.flatten(0, 2), bias=bias)
        cells = out.flatten(1, 2)  # the compiler of torch 2.11 loses gradients by a result that is itself written into
        cells.mul_(factors.flatten(1, 2)).add_(residual.flatten(1, 2))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factors = ctx.saved_tensors
        x, grad = widened(x, grad), grad.contiguous()
        grad_x = new_map_like(x)
        rows = (grad if factors is None else (grad * factors).to(x.dtype)).flatten(0, 2)
        multiply(rows, weight, grad_x.flatten(0, 2))
        return grad_x, add_outer(None, rows, x.flatten(0, 2)), add_rows(None, rows), grad, None
