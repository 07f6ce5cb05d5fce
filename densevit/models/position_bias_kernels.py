"""A dynamic position bias by the kernels of `densevit.kernels.gpu`, laid out for attention, and its gradients."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from densevit.kernels.library import call, gpu_kernels, on_gpu, usable
from densevit.models.untouched import has_hooks, untouched

PARTS = (nn.Linear, *(nn.LayerNorm, nn.ReLU, nn.Linear) * 3)
EPS = 1e-5
"""Of the layer norms."""


def takes(first: nn.Linear, rest: nn.Sequential, *, keys_across: int, device: torch.device) -> bool:
    """Whether `LaidOutBias` takes this MLP: on the GPU where the offsets are, as this package made it."""
    parts: list[nn.Module] = [first, *rest]
    kinds = len(parts) == len(PARTS) and all(type(part) is kind for part, kind in zip(parts, PARTS, strict=True))
    if not kinds or not on_gpu(first.weight) or first.weight.device != device or has_hooks(rest):
        return False
    weights: list[Tensor] = []
    if not all(untouched(part, training=part.training, found=weights) for part in parts) or not usable(*weights):
        return False
    hidden, heads, norms = first.out_features, len(weights[-1]), (rest[0], rest[3], rest[6])
    shapes = [(hidden, 2), (hidden,)]
    for width in (hidden, hidden, heads):
        shapes += [(hidden,), (hidden,), (width, hidden), (width,)]
    for weight, shape in zip(weights, shapes, strict=True):
        if weight.dtype != torch.float32 or weight.shape != shape or not weight.is_contiguous():
            return False
    return all(norm.eps == EPS for norm in norms) and _fits(device, heads, hidden, keys_across)


@torch.compiler.assume_constant_result
def _fits(device: torch.device, heads: int, dim: int, keys_across: int) -> bool:
    kernels = gpu_kernels(device)
    return kernels is not None and bool(kernels.fits_position_bias(heads, dim, keys_across))


class LaidOutBias(torch.autograd.Function):
    """Bias (1, heads, H * W, nh * nw) of `dtype`, of an MLP that `takes` takes.

    `axes` are, for rows and columns each, the offsets (U,), their indices (queries, keys) and their queries (U, keys).
    """

    @staticmethod
    def forward(
        ctx: Any, axes: tuple[tuple[Tensor, Tensor, Tensor], ...], dtype: torch.dtype, *weights: Tensor
    ) -> Tensor:
        (y, index_y, _), (x, index_x, _) = axes
        heads = len(weights[-1])
        table = weights[0].new_empty(heads, len(y), len(x))
        sizes = (len(index_y) * len(index_x), index_y.shape[1] * index_x.shape[1])
        bias = weights[0].new_empty(heads, *sizes, dtype=dtype)
        call("position_bias", y, x, index_y, index_x, weights, table, bias, EPS)
        ctx.save_for_backward(*weights)
        ctx.axes = axes
        return bias[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, ((y, _, query_y), (x, index_x, query_x)) = ctx.saved_tensors, ctx.axes
        sizes = [weight.numel() for weight in weights]
        sums = torch.zeros(sum(sizes), dtype=torch.float32, device=grad.device)
        tail = (grad[0].contiguous(), sums, len(index_x), EPS)
        call("position_bias_backward", y, x, query_y, query_x, weights, *tail)
        grads = (part.view(weight.shape) for part, weight in zip(sums.split(sizes), weights, strict=True))
        return None, None, *grads
