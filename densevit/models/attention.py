"""Attention inside windows and on keys at given places, with position biases by offset.

Shapes: B batch, H W map, C channels, R window size, N queries, M keys. Maps are (B, H, W, C).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densevit.kernels import attention as kernels
from densevit.kernels.library import usable
from densevit.models.conv_norm import inference_path
from densevit.models.position_bias import (
    AxisOffsets,
    DynamicPositionBias,
    axis_offsets,
    crop_window_bias,
    gather_bias,
)
from densevit.models.windows import WindowGrid, merge, pad_map, partition

MAX_BIAS_ELEMENTS = 2**22
"""Largest position bias, in elements, that is laid out at once; beyond it the queries are taken in chunks of rows."""
MAX_KEPT_ELEMENTS = 2**20
"""Largest laid-out position bias that inference keeps between calls; for larger maps only the table of offsets is."""


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, ..., C) -> (B, heads, N, C / heads), a view where the middle dimensions are contiguous."""
    return x.flatten(1, -2).unflatten(-1, (num_heads, -1)).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """(B, heads, N, d) queries on (B, heads, M, d) keys and values, plus bias (1, heads, N, M).

    `scaled_dot_product_attention`, except on a CPU with a bias that needs a gradient: there it takes a path that first
    looks for rows without any key, and here every row has one.
    """
    if bias is not None and bias.requires_grad and q.device.type == "cpu" and not torch.compiler.is_compiling():
        q, k = (q.contiguous(),) * 2 if k is q else (q, k)  # the product would copy both
        scores = torch.add(bias, torch.matmul(q, k.transpose(2, 3)), alpha=q.shape[-1] ** -0.5)
        return torch.matmul(scores.softmax(dim=-1), v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, grid: WindowGrid, *, num_heads: int, bias: Tensor | None = None
) -> Tensor:
    """Attention inside every window of `grid`: maps (B, H, W, C) -> (B, H, W, C).

    `bias` (1, heads, R * R, R * R) is that of a full window. Where `k` is `q` itself, it is cut into windows once.
    """
    return window_attention_beside(q, k, v, grid, num_heads=num_heads, bias=bias)[1]


def window_attention_beside(
    q: Tensor, k: Tensor, v: Tensor, grid: WindowGrid, *, num_heads: int, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`q` and its `window_attention`. Where this `q` is used again, its gradients meet inside the backward pass."""
    biases = window_biases(bias, grid)
    if kernels.takes(q, num_heads, tokens=grid.window_size**2) and q.dtype == k.dtype == v.dtype and usable(q, k, v):
        q, k, v = q.contiguous(), q.contiguous() if k is q else k.contiguous(), v.contiguous()
        return kernels.window_attention_beside(q, k, v, grid.groups, biases, num_heads=num_heads)
    parts = (partition(pad_map(t, grid), grid) for t in ((q, v) if k is q else (q, v, k)))
    outputs = []
    for mask, (query, value, *rest) in zip(biases, zip(*parts, strict=True), strict=True):
        B, windows, tokens, _ = query.shape
        query, value, *rest = (split_heads(t.flatten(0, 1), num_heads) for t in (query, value, *rest))
        out = attention(query, rest[0] if rest else query, value, mask)
        outputs.append(out.transpose(1, 2).reshape(B, windows, tokens, -1))
    return q, merge(outputs, grid)


def window_biases(bias: Tensor | None, grid: WindowGrid) -> list[Tensor | None]:
    """The bias of a full window (1, heads, R * R, R * R), cut to the windows of each group of `grid`."""
    if bias is None:
        return [None] * len(grid.groups)
    return [
        crop_window_bias(bias, window_size=grid.window_size, tokens=(run_y.tokens, run_x.tokens))
        for run_y, run_x in grid.groups
    ]


def key_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *, num_heads: int) -> Tensor:
    """(B, N, C) queries on (B, M, C) keys and values, plus bias (1, heads, N, M): (B, N, C)."""
    if kernels.takes(q, num_heads, keys=k.shape[1]) and q.dtype == k.dtype == v.dtype and usable(q, k, v):
        k, v = (k, v) if k.stride() == v.stride() and _even(k) else (k.contiguous(), v.contiguous())
        q = q if _even(q) else q.contiguous()
        return kernels.key_attention(q, k, v, bias, num_heads=num_heads)
    q, k, v = (split_heads(t, num_heads) for t in (q, k, v))
    return attention(q, k, v, bias).transpose(1, 2).flatten(2)


def _even(x: Tensor) -> bool:
    """Whether the cells of (B, N, C) lie evenly apart, from one image to the next too: some rows of a map do not."""
    B, N, _ = x.shape
    return x.stride(2) == 1 and (B == 1 or N == 1 or x.stride(0) == N * x.stride(1))


class BiasedAttention(nn.Module):
    """Attention of map queries on keys at given places, with a bias by offset; never the full bias of a large map."""

    def __init__(self, dim: int, *, num_heads: int, position_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.bias = DynamicPositionBias(dim, num_heads=num_heads) if position_bias else None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, centers: tuple[list[int], list[int]]) -> Tensor:
        """q (B, H, W, C), k and v (B, nh * nw, C) -> (B, H, W, C).

        `centers` are the keys' doubled coordinates per axis, in cells of the query map.
        """
        _, H, W, _ = q.shape
        rows = H if self.bias is None else max(1, MAX_BIAS_ELEMENTS // (self.num_heads * W * k.shape[1]))
        tops = range(0, H, rows)
        parts = (self._rows(q[:, top : top + rows], k, v, (H, W), centers, top) for top in tops)
        if len(tops) == 1:
            return next(parts)
        if not inference_path():
            return torch.cat(list(parts), dim=1)
        out = torch.empty_like(q)  # results kept between two parts would break up the memory that the parts share
        for top, part in zip(tops, parts, strict=True):
            out[:, top : top + rows] = part
        return out

    def _rows(
        self, q: Tensor, k: Tensor, v: Tensor, size: tuple[int, int], centers: tuple[list[int], list[int]], top: int
    ) -> Tensor:
        """The rows `q` (B, rows, W, C) of a map of `size`, the first of which is `top`."""
        bias = self._bias_rows(size, centers, top, top + q.shape[1], v)
        return key_attention(q.flatten(1, 2), k, v, bias, num_heads=self.num_heads).view(q.shape)

    def _bias_rows(
        self, size: tuple[int, int], centers: tuple[list[int], list[int]], top: int, bottom: int, like: Tensor
    ) -> Tensor | None:
        """Bias of query rows top .. bottom, (1, heads, rows * W, keys); in inference kept if it is small and whole."""
        if self.bias is None:
            return None
        mlp, key = self.bias, (size, *map(tuple, centers), like.dtype, like.device)
        whole = (top, bottom) == (0, size[0])

        def offsets() -> tuple[AxisOffsets, AxisOffsets]:
            y, x = (axis_offsets(n, c, device=like.device) for n, c in zip(size, centers, strict=True))
            return y, x

        def table() -> Tensor:
            y, x = offsets()
            return mlp(y.values, x.values).to(like.dtype)

        def rows() -> Tensor:
            y, x = offsets()
            if whole and not inference_path():
                return mlp.laid_out(y, x, like.dtype)
            return gather_bias(mlp.cached(("table", *key), table), y.index[top:bottom], x.index)

        elements = self.num_heads * size[0] * size[1] * len(centers[0]) * len(centers[1])
        keep = whole and elements <= MAX_KEPT_ELEMENTS
        return mlp.cached(("rows", *key), rows) if keep else rows()
