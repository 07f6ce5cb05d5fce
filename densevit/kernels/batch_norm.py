"""Statistics of a batch norm on a CPU, in the form that the kernel for a GPU has: PyTorch's own pass is as fast."""

import torch
from torch import Tensor


def batch_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, running_mean: Tensor, running_var: Tensor, vectors: Tensor, rows: int,
    channels: int, momentum: float, eps: float,
) -> None:  # fmt: skip
    """vectors (4, C) <- scale, shift, mean and inverse deviation of the batch's norm; running statistics moved on."""
    maps = x.movedim(-1, 1)
    mean, var = torch.ops.aten.batch_norm_update_stats(maps, running_mean, running_var, momentum)
    inverse_std = torch.rsqrt(var + eps)
    scale = gamma * inverse_std
    torch.stack((scale, beta - mean * scale, mean, inverse_std), out=vectors)
