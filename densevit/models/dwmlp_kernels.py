"""A training step of the DWMLP by the kernels of `densevit.kernels`: of its maps it keeps the first alone.

The map after the depth-wise convolution is computed again in the backward pass: the convolution costs less than a sixth
of the matrix products beside it, and the two maps are the widest of the layer.

Shapes: B batch, H W map, C channels; maps are (B, H, W, C), contiguous.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from densevit.kernels.bfloat16 import narrow, widened
from densevit.kernels.library import LANES, call
from densevit.kernels.maps import depthwise, new_sums, taps
from densevit.kernels.operators import as_operator
from densevit.kernels.pages import new_map, new_map_like
from densevit.kernels.products import add_outer, multiply, outer_dtype
from densevit.models.conv_gradients import Step, compute_dtype
from densevit.models.conv_norm import ConvNorm
from densevit.models.lean_gradients import counted, keeps_one_map
from densevit.models.norm_gelu_kernels import (
    Affine,
    batch_norm,
    by_gamma_and_beta,
    linear,
    linear_backward,
    norm_backward,
    parts,
    usable_norms,
)
from densevit.models.untouched import untouched


def takes(x: Tensor, expand: ConvNorm, depthwise: ConvNorm, project: nn.Linear) -> bool:
    """Whether `train_dwmlp` takes this map and these blocks: batch statistics, widths of whole vectors."""
    if not all(untouched(block, training=True) for block in (expand, depthwise, project)):
        return False
    norms, layers = (expand.norm, depthwise.norm), (expand.conv, project)
    own = all(type(layer) is nn.Linear for layer in layers) and type(depthwise.conv) is nn.Conv2d
    if (
        not own
        or any(layer.bias is None for layer in (*layers, depthwise.conv))
        or expand.dim % LANES
        or not all(keeps_one_map(norm, x) and norm.affine for norm in norms)
    ):
        return False
    return usable_norms(norms, x, *(module.weight for module in (*layers, depthwise.conv)))


def train_dwmlp(x: Tensor, expand: ConvNorm, depthwise: ConvNorm, project: nn.Linear) -> tuple[Tensor, Tensor]:
    """`x` and the three blocks one after the other: (B, H, W, C_in) -> (B, H', W', C). All three have biases.

    Where this `x` is used again, its gradients meet inside the backward pass.
    """
    x, stride = x.to(compute_dtype(x)), depthwise.stride
    steps = (
        counted(expand.norm, x.permute(0, 3, 1, 2)),
        counted(depthwise.norm, x[:, ::stride, ::stride].permute(0, 3, 1, 2), depthwise.conv),
    )
    modules = (expand.conv, expand.norm, depthwise.conv, depthwise.norm, project)
    return _TrainDWMLP.apply(x, steps, *(t for module in modules for t in (module.weight, module.bias)))


class _TrainDWMLP(torch.autograd.Function):
    """Linear, norm, GELU, 3x3 depth-wise convolution, norm, GELU, linear: (B, H, W, C_in) -> itself, (B, H', W', C).

    `weights` are those of the seven in turn, weight and bias each; `steps` are those of the two norms.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: tuple[Step, Step], *weights: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        expand, expand_bias, gamma1, beta1, kernel, kernel_bias, gamma2, beta2, project, project_bias = weights
        x, stride = x.contiguous(), steps[1].stride
        expand, expand_bias, project, project_bias = (
            t.to(x.dtype) for t in (expand, expand_bias, project, project_bias)
        )
        first = new_map(*x.shape[:3], len(expand), like=x)
        multiply(x.flatten(0, 2), expand.t(), first.flatten(0, 2), bias=expand_bias)
        norm1 = batch_norm(first, gamma1, beta1, steps[0])
        second = depthwise(first, taps(kernel), kernel_bias, before=norm1[:2], stride=stride)
        norm2 = batch_norm(second, gamma2, beta2, steps[1])
        ctx.save_for_backward(narrow(x), narrow(first), expand, kernel, kernel_bias, project, *norm1, *norm2)
        ctx.stride = stride
        return x.view_as(x), linear(second, norm2, project, project_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, addend: Tensor | None, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return addend, *[None] * 11
        addend = None if addend is None else addend.contiguous()
        x, first, expand, kernel, kernel_bias, project, *norms = ctx.saved_tensors
        x, first = widened(x, grad), widened(first, grad)
        norm1, norm2, weight = Affine(*norms[:4]), Affine(*norms[4:]), taps(kernel)
        second = depthwise(first, weight, kernel_bias, before=norm1[:2], stride=ctx.stride)
        grad_second, sums = new_map_like(second), new_sums(16, second)
        sums2, of_conv, zeros = sums[:2], sums[2:14], sums[14:]  # the last stay so
        of_project = linear_backward(second, norm2, project, grad.contiguous(), grad_second, sums2)
        norm_backward(second, norm2, sums2, grad_second, grad_second, cells=second[..., 0].numel())
        grad_first = second if ctx.stride == 1 else new_map_like(first)  # `second` has done its work
        places = (*first.shape, 1, ctx.stride)
        call("depthwise_backward", first, *norm1[:3], weight, grad_second, grad_first, of_conv, *places)
        sums1, of_kernel = of_conv[10:], of_conv[:9].t().reshape(kernel.shape)
        grad_x, of_expand = linear_norm_backward(x, expand, first, list(norm1), sums1, grad_first, addend)
        by_norm1, by_norm2 = by_gamma_and_beta(norm1, sums1), by_gamma_and_beta(norm2, sums2)
        # a bias before a norm that takes off the mean changes nothing
        return grad_x, None, of_expand, zeros[0], *by_norm1, of_kernel, zeros[1], *by_norm2, *of_project


@as_operator(
    "(Tensor x, Tensor weight, Tensor first, Tensor[] norm, Tensor sums, Tensor(a!) grad, Tensor? addend) "
    "-> (Tensor, Tensor)",
    lambda x, weight, *_: (torch.empty_like(x), weight.new_empty(weight.shape, dtype=outer_dtype(weight))),
)
def linear_norm_backward(
    x: Tensor, weight: Tensor, first: Tensor, norm: Sequence[Tensor], sums: Tensor, grad: Tensor, addend: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of norm(linear(x)) by `x`, plus `addend`, and weight from `grad`, that by its output, which is lost."""
    grad_x, by_weight, addends = new_map_like(x), None, [] if addend is None else [addend]
    for grad_part, first_part, x_part, result, *of_x in parts(grad, first, x, grad_x, *addends):
        norm_backward(first_part, Affine(*norm), sums, grad_part, grad_part, cells=first[..., 0].numel())
        rows = grad_part.flatten(0, 2)
        multiply(rows, weight, result.flatten(0, 2), addend=of_x[0].flatten(0, 2) if of_x else None)
        by_weight = add_outer(by_weight, rows, x_part.flatten(0, 2))
    assert by_weight is not None
    return grad_x, by_weight
