"""A dynamic position bias by the kernels of `densevit.kernels`, laid out for attention, and its gradients."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from densevit.kernels.library import call, gpu_kernels, on_gpu, usable
from densevit.models.untouched import has_hooks, untouched

PARTS = (nn.Linear, *(nn.LayerNorm, nn.ReLU, nn.Linear) * 3)
NUM_WEIGHTS = 14
"""A weight and a bias of each but the ReLUs."""
EPS = 1e-5
"""Of the layer norms."""
WIDEST = 64
"""Hidden width, and heads, that the kernels of a CPU take."""


def takes(first: nn.Linear, rest: nn.Sequential, *, keys_across: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `LaidOutBias` takes this MLP: where the offsets are, as this package made it."""
    parts: list[nn.Module] = [first, *rest]
    kinds = len(parts) == len(PARTS) and all(type(part) is kind for part, kind in zip(parts, PARTS, strict=True))
    if not kinds or first.weight.device != device or has_hooks(rest):
        return False
    weights: list[Tensor] = []
    if not all(untouched(part, training=part.training, found=weights) for part in parts):
        return False
    if len(weights) != NUM_WEIGHTS or not usable(*weights):  # DataParallel and FSDP put theirs elsewhere
        return False
    hidden, heads, norms = first.out_features, len(weights[-1]), (rest[0], rest[3], rest[6])
    shapes = [(hidden, 2), (hidden,)]
    for width in (hidden, hidden, heads):
        shapes += [(hidden,), (hidden,), (width, hidden), (width,)]
    for weight, shape in zip(weights, shapes, strict=True):
        if weight.dtype != torch.float32 or weight.shape != shape or not weight.is_contiguous():
            return False
    if any(norm.eps != EPS for norm in norms):
        return False
    if not on_gpu(first.weight):
        return dtype == torch.float32 and max(heads, hidden) <= WIDEST
    return _fits(device, heads, hidden, keys_across)


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
        heads, (H, nh), (W, nw) = len(weights[-1]), index_y.shape, index_x.shape
        table = weights[0].new_empty(heads, len(y), len(x))
        bias = weights[0].new_empty(heads, H * W, nh * nw, dtype=dtype)
        ctx.axes, ctx.sizes = axes, (heads, len(weights[0]), len(y), len(x), H, W, nh, nw)
        ctx.save_for_backward(*weights)
        call("position_bias", y, x, index_y, index_x, weights, table, bias, EPS, ctx.sizes)
        return bias[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, ((y, _, query_y), (x, _, query_x)) = ctx.saved_tensors, ctx.axes
        sizes = [weight.numel() for weight in weights]
        sums = torch.zeros(sum(sizes), dtype=torch.float32, device=grad.device)
        tail = (grad[0].contiguous(), sums, EPS, ctx.sizes)
        call("position_bias_backward", y, x, query_y, query_x, weights, *tail)
        grads = (part.view(weight.shape) for part, weight in zip(sums.split(sizes), weights, strict=True))
        return None, None, *grads
