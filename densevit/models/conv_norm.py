"""Convolution, batch norm and GELU as one step of a (B, H, W, C) map; folded into one where no gradient is taken.

Shapes: B batch, H W map, C channels.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CACHED_ELEMENTS = 2**20
"""A map of about this many elements stays in a core's cache between two operations."""

CPU_HAS_BFLOAT16 = torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
"""Whether this CPU has instructions for bfloat16; without, its matrix products take many times those in float32."""
MAX_KEPT = 4
"""Derived tensors kept per module; with images of ever new sizes the oldest make room."""


def inference_path() -> bool:
    """Whether values may be cached and buffers reused: no gradient is recorded and no graph is being captured."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing())


def in_cached_parts(module: nn.Module, x: Tensor, *, peak: int) -> Tensor:
    """`module(x)`, in inference on a CPU image by image where the largest map in between would leave the cache.

    `peak` is that map's elements per image. Twice as fast for GELU and depth-wise convolution in the first stage, and
    the wide map never exists for the whole batch.
    """
    parts = max(1, CACHED_ELEMENTS // peak)
    if x.device.type != "cpu" or module.training or len(x) <= parts or not inference_path():
        return module(x)
    return torch.cat([module(part) for part in x.split(parts)])


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y; in inference into x, which must be a map nobody else holds."""
    return x.add_(y) if inference_path() and x.dtype == y.dtype else x + y


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type in which linear layers and convolutions run on `x`: autocast's, or that of `x` itself."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def worthwhile_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast as it stands, except to bfloat16 on a CPU without instructions for it: there float32, by far faster."""
    if device.type != "cpu" or CPU_HAS_BFLOAT16 or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return nullcontext()
    return torch.autocast("cpu", enabled=False)


class DerivedTensors:
    """Tensors computed from parameters (folded weights, bias tables), kept until a parameter changes.

    A change is seen by the parameters' storage and version counter. Only writing through `.data` leaves both alone;
    `nn.Module.train` and `.eval` of the owner drop everything, so that a switch of mode is always safe.
    """

    def __init__(self) -> None:
        self._entries: dict[Any, tuple[Any, Any]] = {}  # in order of age

    def get(self, key: Any, sources: list[Tensor], build: Any) -> Any:
        """`build()`, or what it gave the last time under `key` if no tensor of `sources` has changed since."""
        state = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in sources)
        entry = self._entries.get(key)
        if entry is None or entry[0] != state:
            entry = self._entries[key] = (state, build())
            if len(self._entries) > MAX_KEPT:
                del self._entries[next(iter(self._entries))]
        return entry[1]

    def clear(self) -> None:
        self._entries.clear()

    def __deepcopy__(self, memo: Any) -> "DerivedTensors":
        return DerivedTensors()

    def __getstate__(self) -> dict[str, Any]:
        return {"_entries": {}}


class _DepthwiseConv(torch.autograd.Function):
    """3x3 depth-wise convolution, padding 1, whose gradients take the CPU's fast kernels in bfloat16 too.

    The library's input gradient of stride 2 costs twenty times its forward; here it is a convolution of the gradient
    spread over every second cell. The weight's gradient is taken in float32, which is faster and rounds less.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, bias, stride, 1, 1, weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        stride, channels = ctx.stride, weight.shape[0]
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = None
        if ctx.needs_input_grad[0]:
            spread = grad
            if stride > 1:
                spread = torch.zeros_like(x, memory_format=torch.channels_last)
                spread[:, :, ::stride, ::stride] = grad
            grad_x = F.conv2d(spread, weight.flip(2, 3), None, 1, 1, 1, channels)
        _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad.float(), x.float(), weight.float(), [channels], [stride] * 2, [1, 1], [1, 1], False, [0, 0], channels,
            [False, True, True],
        )  # fmt: skip
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None


class _NormGelu(torch.autograd.Function):
    """Batch norm with the batch's statistics, then GELU: (B, C, H, W) kept. Keeps its input only.

    The normed map, which GELU's gradient needs, is computed again from it: a third less memory for a wide layer.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running: tuple[Tensor, Tensor], momentum: float, eps: float
    ) -> Tensor:
        y, mean, inverse_std = torch.ops.aten.native_batch_norm(x, weight, bias, *running, True, momentum, eps)
        ctx.save_for_backward(x, weight, bias, mean, inverse_std)
        ctx.eps = eps
        return torch.ops.aten.gelu_(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse_std = ctx.saved_tensors
        normed = F.batch_norm(x, mean, inverse_std.pow(-2) - ctx.eps, weight, bias, False, 0.0, ctx.eps)
        grad = torch.ops.aten.gelu_backward(grad, normed)
        del normed
        gradients = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, mean, inverse_std, True, ctx.eps, [True, True, True]
        )
        return *gradients, None, None, None


class ConvNorm(nn.Module):
    """Convolution (1x1: a Linear), BN and, with `act`, GELU: (B, H, W, C_in) -> (B, H', W', C)."""

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
        self.act = act
        self._folded = DerivedTensors()

    def train(self, mode: bool = True) -> "ConvNorm":
        self._folded.clear()
        return super().train(mode)

    def _apply_conv(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        conv = self.conv
        if isinstance(conv, nn.Conv2d) and self._slow_gradient(x) and bias is not None:
            out = _DepthwiseConv.apply(x.permute(0, 3, 1, 2), weight.to(x.dtype), bias.to(x.dtype), conv.stride[0])
        elif isinstance(conv, nn.Conv2d):
            out = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        elif weight.dim() == 4:  # a 1x1 convolution, see `_fold`
            out = F.conv2d(x.permute(0, 3, 1, 2), weight, bias)
        else:
            return F.linear(x, weight, bias)
        return out.permute(0, 2, 3, 1)

    def _slow_gradient(self, x: Tensor) -> bool:
        """Whether the library's gradient of this depth-wise convolution is the slow one: bfloat16 on a CPU."""
        return (
            isinstance(self.conv, nn.Conv2d)
            and self.conv.groups == self.conv.in_channels == self.conv.out_channels
            and (x.device.type, x.dtype) == ("cpu", torch.bfloat16)
            and torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
        )

    def _fold(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that equals convolution and BN with running statistics."""
        norm, weight = self.norm, self.conv.weight
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        bias = norm.bias - norm.running_mean * scale
        if self.conv.bias is not None:
            bias = bias + self.conv.bias * scale
        folded = weight * scale.view(-1, *[1] * (weight.dim() - 1))
        if isinstance(self.conv, nn.Linear) and dtype == torch.bfloat16 and weight.device.type == "cpu":
            # bfloat16: a convolution adds the bias on the way, a linear layer first copies it into its output
            folded = folded[:, :, None, None].contiguous(memory_format=torch.channels_last)
        return folded.to(dtype), bias.to(dtype)

    def _norm_act(self, x: Tensor) -> Tensor:
        """BN and GELU where gradients are taken: (B, C, H, W) kept; synchronised norms go their own way."""
        norm = self.norm
        fused = self.act and norm.training and type(norm) is nn.BatchNorm2d and x.device.type == "cpu"
        if not fused or norm.momentum is None or norm.running_mean is None or torch.compiler.is_compiling():
            return F.gelu(norm(x)) if self.act else norm(x)
        assert norm.running_var is not None
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        running = (norm.running_mean, norm.running_var)
        return _NormGelu.apply(x, norm.weight, norm.bias, running, norm.momentum, norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm.training or not inference_path():
            x = self._apply_conv(x, self.conv.weight, self.conv.bias)
            return self._norm_act(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        dtype = compute_dtype(x)
        sources = [*self.parameters(), *self.buffers()]
        weight, bias = self._folded.get(dtype, sources, lambda: self._fold(dtype))
        x = self._apply_conv(x, weight, bias)
        return torch.ops.aten.gelu_(x) if self.act else x
