"""Attention on maps as they lie in memory. Shapes: B batch, H W map, C channels, N queries, M keys; C = heads * D."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from densevit.kernels.bfloat16 import narrow, widened
from densevit.kernels.library import call, on_gpu
from densevit.kernels.pages import new_map_like

HEAD_WIDTHS = (8, 16, 24, 32)
"""Channels per head that the kernels are built for."""


GPU_KEYS, GPU_TOKENS = 2**8, 64
"""Bytes of a channel of all keys that a head may have on a GPU, where it takes them at once; tokens of a window."""


def takes(x: Tensor, num_heads: int, *, channels: int | None = None, keys: int = 0, tokens: int = 0) -> bool:
    """Whether heads of `channels` (of `x`) are as wide as the kernels need, and their keys or a window's tokens few."""
    if on_gpu(x) and (keys * x.element_size() > GPU_KEYS or tokens > GPU_TOKENS):
        return False
    channels = x.shape[-1] if channels is None else channels
    return channels % num_heads == 0 and channels // num_heads in HEAD_WIDTHS


Group = tuple[Sequence[int], Sequence[int]]
"""The windows of equal shape: a `Run` along y, one along x."""


def window_attention_beside(
    q: Tensor, k: Tensor, v: Tensor, groups: Sequence[Group], biases: Sequence[Tensor | None], *, num_heads: int
) -> tuple[Tensor, Tensor]:
    """`q`, and attention inside the windows of a map: (B, H, W, C) -> (B, H, W, C), contiguous like all three maps.

    Together the groups hold every cell once; each has a bias (1, heads, T, T) or None. Where this `q` is used again,
    its gradients meet inside the backward pass.
    """
    if not torch.is_grad_enabled():
        return q, infer_windows(q, k, v, groups, biases, num_heads=num_heads)
    return _WindowAttention.apply(q, None if k is q else k, v, groups, num_heads, *biases)


def infer_windows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[Group],
    biases: Sequence[Tensor | None],
    *,
    num_heads: int,
    shifts: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None),
) -> Tensor:
    """`window_attention_beside`'s attention, without gradients; `shifts` (C,) are added to q, k and v on the way."""
    assert all(t.is_contiguous() for t in (q, k, v))
    B, H, W, C = q.shape
    dim, out = C // num_heads, new_map_like(q)
    for group, bias in zip(groups, biases, strict=True):
        places = (B, H, W, num_heads, dim, *runs(group), dim**-0.5)
        call("window_attention", q, k, v, *shifts, _whole(bias), out, *places)
    return out


def key_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *, num_heads: int) -> Tensor:
    """Attention of (B, N, C) queries on (B, M, C) keys and values, bias (1, heads, N, M) or None: (B, N, C).

    Each may be a part of a wider map's channels; its cells must lie evenly apart.
    """
    if not torch.is_grad_enabled():
        return _on_keys(q, k, v, bias, num_heads)
    return _KeyAttention.apply(q, k, v, bias, num_heads)


class _WindowAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor | None, v: Tensor, groups: Sequence[Group], heads: int, *biases: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Without `k` it is `q`: the compiler takes no tensor twice."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(narrow(q), None if k is None else narrow(k), narrow(v), *biases)
        ctx.groups, ctx.num_heads, ctx.num_biases = groups, heads, len(biases)
        return q.view_as(q), infer_windows(q, q if k is None else k, v, groups, biases, num_heads=heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, addend: Tensor | None, grad: Tensor | None) -> tuple[Any, ...]:
        if grad is None:
            return addend, *[None] * (4 + ctx.num_biases)
        q, k, v, *biases = ctx.saved_tensors
        q, k, v = widened(q, grad), None if k is None else widened(k, grad), widened(v, grad)
        B, H, W, C = q.shape
        dim, grad, addend = C // ctx.num_heads, grad.contiguous(), _whole(addend)
        grad_q, grad_k, grad_v = new_map_like(q), None if k is None else new_map_like(k), new_map_like(v)
        grad_biases = [_zeros_like(bias) for bias in biases]
        for group, bias, grad_bias in zip(ctx.groups, biases, grad_biases, strict=True):
            places = (B, H, W, ctx.num_heads, dim, *runs(group), dim**-0.5)
            grads = (grad_q, grad_k, grad_v, grad_bias)
            call("window_attention_backward", q, q if k is None else k, v, _whole(bias), grad, addend, *grads, *places)
        return grad_q, grad_k, grad_v, None, None, *grad_biases


def _on_keys(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, num_heads: int) -> Tensor:
    (B, N, C), M, out = q.shape, k.shape[1], new_map_like(q)
    dim = C // num_heads
    assert k.stride() == v.stride()
    call("key_attention", q, _step(q), k, v, _step(k), _whole(bias), out, B, N, M, num_heads, dim, dim**-0.5)
    return out


class _KeyAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, num_heads: int) -> Tensor:
        ctx.save_for_backward(narrow(q), k, v, bias)
        ctx.num_heads = num_heads
        return _on_keys(q, k, v, bias, num_heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        q, k, v, bias = ctx.saved_tensors
        q = widened(q, grad)
        (B, N, C), M = q.shape, k.shape[1]
        dim, bias, grad = C // ctx.num_heads, _whole(bias), grad.contiguous()
        parts = _parts(q, ctx.num_heads)
        grad_q, grad_kv = new_map_like(q), torch.empty(parts, B, 2, M, C, dtype=torch.float32, device=q.device)
        grad_bias = _zeros_like(bias)
        places = (B, N, M, ctx.num_heads, dim, parts, dim**-0.5)
        grads = (grad_q, grad_kv, grad_bias)
        call("key_attention_backward", q, _step(q), k, v, _step(k), bias, grad, *grads, *places)
        grad_k, grad_v = (grad_kv[0] if parts == 1 else grad_kv.sum(dim=0)).unbind(1)
        return grad_q, grad_k, grad_v, grad_bias, None


def _parts(q: Tensor, num_heads: int) -> int:
    """Into how many parts to take the queries, for all threads to have work where the images are few."""
    if on_gpu(q):
        return max(1, min(1024 // (len(q) * num_heads), q.shape[1] // 64))
    threads = _threads()
    return 1 if threads == 1 else -(-4 * threads // num_heads)


@torch.compiler.assume_constant_result
def _threads() -> int:
    return torch.get_num_threads()


def runs(group: Group) -> tuple[tuple[int, ...], ...]:
    """As the kernels take them."""
    return tuple(tuple(run) for run in group)


def _zeros_like(bias: Tensor | None) -> Tensor | None:
    """For sums over many images: float32."""
    return None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)


def _whole(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _step(x: Tensor) -> int:
    """Floats from one cell to the next."""
    B, N, _ = x.shape
    step = x.stride(1) if N > 1 else x.stride(0)
    assert x.stride(2) == 1
    assert B == 1 or N == 1 or x.stride(0) == N * step
    return step
