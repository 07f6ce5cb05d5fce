"""Convolutions and linear layers on (B, C, H, W) maps, channels-last, with their gradients: what autograd would call.

Shapes: B batch, H W map, C channels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from densevit.kernels import convolutions
from densevit.kernels.convolutions import padded
from densevit.kernels.pages import new_map, new_map_like
from densevit.kernels.products import sum_of_products


class Step(NamedTuple):
    """What a batch norm and the convolution after it are told beside their weights."""

    running_mean: Tensor
    running_var: Tensor
    momentum: float
    eps: float
    stride: int


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type in which linear layers and convolutions run on `x`: autocast's, or that of `x` itself."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """A linear layer's weight (C', C), or a convolution's (C', C / groups, k, k), on (B, C, H, W)."""
    if weight.dim() == 2:
        return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, 1, x.shape[1] // weight.shape[1])


def conv_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, *, has_bias: bool, stride: int, needs_x: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `convolve` by its input, if it needs one, weight and, where it has one, bias."""
    if weight.dim() == 2:
        rows, inputs = grad.permute(0, 2, 3, 1).flatten(0, 2), x.permute(0, 2, 3, 1)
        grad_x = (rows @ weight).view(inputs.shape).permute(0, 3, 1, 2)
        return grad_x, rows.t() @ inputs.flatten(0, 2), rows.sum(dim=0)
    channels, groups = weight.shape[0], x.shape[1] // weight.shape[1]
    cells, of_cells = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
    if convolutions.takes(of_cells, cells, weight, stride):
        cells, of_cells = cells.contiguous(), of_cells.contiguous()
        by_weight, by_bias = convolutions.weight_gradient(of_cells, cells, stride), of_cells.sum(dim=(0, 1, 2))
        if not needs_x:
            return x.new_empty(0), by_weight, by_bias
        return convolutions.input_gradient(of_cells, cells, weight, stride).permute(0, 3, 1, 2), by_weight, by_bias
    halves = groups == 1 and stride == 2 and weight.shape[-1] == 3
    if halves and x.device.type == "cpu" and x.dtype == torch.float32:
        return _halving_gradients(of_cells, cells, weight, needs_x=needs_x)
    grad = grad.contiguous(memory_format=torch.channels_last)
    slow = groups == channels == x.shape[1] and x.dtype == torch.bfloat16 and x.device.type == "cpu"
    own_x = _depthwise_input_gradient(grad, x, weight, stride) if slow else None
    if slow:  # float32 is faster for the weight, and rounds less
        grad, x = grad.float(), x.float()
    library_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad, x, weight.to(x.dtype), [channels], [stride] * 2, [weight.shape[-1] // 2] * 2, [1, 1], False, [0, 0],
        groups, [needs_x and not slow, True, has_bias],
    )  # fmt: skip
    return library_x if own_x is None else own_x, grad_weight, grad_bias


def _halving_gradients(grad: Tensor, x: Tensor, weight: Tensor, *, needs_x: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of a full 3x3 convolution with stride 2 on (B, H, W, C), as matrix products: twice as fast as the library's."""
    (B, Ho, Wo, _), C = grad.shape, x.shape[-1]
    rows = grad.reshape(-1, len(weight))
    by_weight, by_bias = (halving_patches(x).t() @ rows).view(3, 3, C, len(weight)).permute(3, 2, 0, 1), rows.sum(dim=0)
    if not needs_x:
        return x.new_empty(0), by_weight, by_bias
    # cells of x by the parity of row and column: each kind meets other taps, at a cell of `grad` or the next one
    grad_x, taps, lines = new_map_like(x), weight.permute(2, 3, 0, 1), padded(grad, before=0)
    here, right = rows, lines[:, :-1, 1:].reshape(rows.shape)
    below, across = lines[:, 1:, :-1].reshape(rows.shape), lines[:, 1:, 1:].reshape(rows.shape)
    for y, x_parity, terms in (
        (0, 0, [(here, 1, 1)]),
        (0, 1, [(here, 1, 2), (right, 1, 0)]),
        (1, 0, [(here, 2, 1), (below, 0, 1)]),
        (1, 1, [(here, 2, 2), (right, 2, 0), (below, 0, 2), (across, 0, 0)]),
    ):
        total = sum_of_products([(cells, taps[ky, kx]) for cells, ky, kx in terms]).view(B, Ho, Wo, C)
        place = grad_x[:, y::2, x_parity::2]
        place.copy_(total[:, : place.shape[1], : place.shape[2]])
    return grad_x.permute(0, 3, 1, 2), by_weight, by_bias


def halving_patches(x: Tensor) -> Tensor:
    """What each cell of a 3x3 convolution with stride 2 sees of (B, H, W, C): (B * H' * W', 9 * C)."""
    (B, H, W, C), lines = x.shape, padded(x, before=1)
    image, line, cell, _ = lines.stride()
    patches = new_map(B, -(-H // 2), -(-W // 2), 3, 3 * C, like=x)
    patches.copy_(lines.as_strided(patches.shape, (image, 2 * line, 2 * cell, line, 1)))
    return patches.view(-1, 9 * C)


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
