"""Convolution, batch norm and GELU as one step of a (B, H, W, C) map; folded into one where no gradient is taken.

Shapes: B batch, H W map, C channels.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densevit.kernels.library import LANES, is_transformed, on_gpu, usable
from densevit.kernels.maps import affine_gelu, folded
from densevit.kernels.products import linear
from densevit.models.conv_gradients import compute_dtype
from densevit.models.depthwise_conv import depthwise_conv
from densevit.models.depthwise_conv import takes as takes_depthwise
from densevit.models.derived_tensors import DerivedTensors
from densevit.models.lean_gradients import check_values_per_channel, keeps_one_map, norm_gelu_conv
from densevit.models.map_conv import map_conv
from densevit.models.map_conv import takes as takes_conv
from densevit.models.untouched import made_of, untouched

CACHED_ELEMENTS = 2**20
"""A map of about this many elements stays in a core's cache between two operations."""


def inference_path() -> bool:
    """Whether values may be cached and buffers reused: nothing is recorded, captured or transformed."""
    no_values = torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed()
    return not (torch.is_grad_enabled() or no_values)


def in_cached_parts(module: nn.Module, x: Tensor, *, peak: int) -> Tensor:
    """`module(x)`, in inference on a CPU image by image where the largest map in between would leave the cache.

    `peak` is that map's elements per image. Twice as fast for GELU and depth-wise convolution in the first stage, and
    the wide map never exists for the whole batch. A module that is not `untouched` gets the batch as it is.
    """
    parts = max(1, CACHED_ELEMENTS // peak)
    in_parts = inference_path() and x.device.type == "cpu" and len(x) > parts
    if not in_parts or not untouched(module, training=False):
        return module(x)
    return torch.cat([module(part) for part in x.split(parts)])


class ConvNorm(nn.Module):
    """Convolution (1x1: a Linear), BN and, with `act`, GELU: (B, H, W, C_in) -> (B, H', W', C)."""

    lacks_bias = True

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv: nn.Linear | nn.Conv2d
        if kernel_size == stride == groups == 1:
            self.conv = nn.Linear(in_dim, dim, bias=bias)
        else:
            self.conv = nn.Conv2d(
                in_dim, dim, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=bias
            )
        self.norm = nn.BatchNorm2d(dim)
        self.dim, self.stride, self.act = dim, stride, act
        self._is_linear = isinstance(self.conv, nn.Linear)
        self.made = made_of(self)
        self._folded = DerivedTensors()

    def train(self, mode: bool = True) -> "ConvNorm":
        self._folded.clear()
        return super().train(mode)

    def _replicate_for_data_parallel(self) -> "ConvNorm":
        replica = super()._replicate_for_data_parallel()
        replica._folded = DerivedTensors()
        return replica

    def convolve(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """The convolution alone; with another weight and bias, where it `has_own_conv`."""
        conv = self.conv
        if weight is None:
            if not self.has_own_conv():
                return conv(x) if self._is_linear else conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            weight, bias = conv.weight, conv.bias
        if isinstance(conv, nn.Conv2d) and takes_depthwise(x, conv):
            return depthwise_conv(x, weight, bias, conv.stride[0])
        if isinstance(conv, nn.Linear) and weight.dim() == 2:
            return linear(x, weight, bias)
        if isinstance(conv, nn.Conv2d) and takes_conv(x, conv):
            return map_conv(x, weight, bias, conv.stride[0])
        x = x.permute(0, 3, 1, 2)
        if isinstance(conv, nn.Linear):  # a 1x1 convolution, see `_fold`
            out = F.conv2d(x, weight, bias)
        else:
            out = F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        return out.permute(0, 2, 3, 1)

    def has_own_conv(self) -> bool:
        """Whether the convolution is as this block made it: an adapter in its place, or one with hooks, is called."""
        own = isinstance(self.conv, nn.Linear | nn.Conv2d)
        return own and untouched(self.conv, training=self.conv.training, may_lack_bias=True)

    def _fold(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that equals convolution and BN with running statistics."""
        weight, (scale, bias) = self.conv.weight, folded(self.norm, self.conv.bias)
        both = weight * scale.view(-1, *[1] * (weight.dim() - 1))
        if isinstance(self.conv, nn.Linear) and dtype == torch.bfloat16 and weight.device.type == "cpu":
            # bfloat16: a convolution adds the bias on the way, a linear layer first copies it into its output
            both = both[:, :, None, None].contiguous(memory_format=torch.channels_last)
        return both.to(dtype), bias.to(dtype)

    def _sources(self) -> list[Tensor]:
        conv, norm = self.conv, self.norm
        statistics = (norm.running_mean, norm.running_var, norm.num_batches_tracked)  # the last counts their changes
        tensors = (conv.weight, conv.bias, norm.weight, norm.bias, *statistics)
        return [tensor for tensor in tensors if tensor is not None]

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (C,) that BN with running statistics makes of the convolution without its bias."""
        return self._folded.get("affine", self._sources(), lambda: folded(self.norm, self.conv.bias))

    def norm_act(self, x: Tensor) -> Tensor:
        """BN and GELU where gradients are taken: (B, H, W, C) kept."""
        x = x.permute(0, 3, 1, 2)
        if self.act and keeps_one_map(self.norm, x):
            x = norm_gelu_conv(x, self.norm)
        else:
            check_values_per_channel(self.norm, x)
            x = F.gelu(self.norm(x)) if self.act else self.norm(x)
        return x.permute(0, 2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not inference_path() or not untouched(self, training=False):
            return self.norm_act(self.convolve(x))
        dtype = compute_dtype(x)
        if self.act and self.dim % LANES == 0 and (dtype == torch.float32 or on_gpu(x)) and usable(x):
            x = self.convolve(x, self.conv.weight).contiguous()
            return affine_gelu(x, *self.affine(), out=x)
        weight, bias = self._folded.get(dtype, self._sources(), lambda: self._fold(dtype))
        x = self.convolve(x, weight, bias)
        return torch.ops.aten.gelu_(x) if self.act else x


def in_sequence(x: Tensor, *blocks: ConvNorm | nn.Linear) -> Tensor:
    """The blocks, each but the last a ConvNorm with GELU, one after the other.

    In training every map between two blocks is kept once only, see `lean_gradients`.
    """
    norms = [block.norm for block in blocks if isinstance(block, ConvNorm)]
    own = all(type(block) in (ConvNorm, nn.Linear) and untouched(block, training=True) for block in blocks)
    if not own or not all(keeps_one_map(norm, x) for norm in norms):
        for block in blocks:
            x = block(x)
        return x
    first = blocks[0]
    assert isinstance(first, ConvNorm)
    x = first.convolve(x)
    for previous, block in pairwise(blocks):
        assert isinstance(previous, ConvNorm)
        conv = block.conv if isinstance(block, ConvNorm) else block
        x = norm_gelu_conv(x.permute(0, 3, 1, 2), previous.norm, conv).permute(0, 2, 3, 1)
    return blocks[-1].norm_act(x) if isinstance(blocks[-1], ConvNorm) else x
