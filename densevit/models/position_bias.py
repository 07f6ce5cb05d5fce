"""Dynamic position bias (HLG, B_W of Eq. 5 and B_G of Eq. 7) as a small table of offsets.

A little MLP maps the offset (dy, dx) between a query and a key to one number per head. It is run once on every
distinct offset of a map size; attention reads the numbers out of that table. Shapes: Uy Ux distinct offsets per axis,
H W query map, nh nw keys per axis.
"""

from collections.abc import Callable, Hashable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from densevit.kernels.library import is_transformed
from densevit.models.conv_norm import inference_path
from densevit.models.derived_tensors import DerivedTensors
from densevit.models.position_bias_kernels import EPS, LaidOutBias, takes
from densevit.models.untouched import has_hooks


class DynamicPositionBias(nn.Module):
    """Offset (dy, dx) -> bias per head: Linear(2, d), then three times LayerNorm, ReLU, Linear; d = dim / 16."""

    is_called = True

    def __init__(self, dim: int, *, num_heads: int) -> None:
        super().__init__()
        hidden = max(dim // 16, 1)
        self.first = nn.Linear(2, hidden)
        layers: list[nn.Module] = []
        for width in (hidden, hidden, num_heads):
            layers += [nn.LayerNorm(hidden, eps=EPS), nn.ReLU(), nn.Linear(hidden, width)]
        self.rest = nn.Sequential(*layers)
        self._tables = DerivedTensors()

    def train(self, mode: bool = True) -> "DynamicPositionBias":
        self._tables.clear()
        return super().train(mode)

    def _replicate_for_data_parallel(self) -> "DynamicPositionBias":
        replica = super()._replicate_for_data_parallel()
        replica._tables = DerivedTensors()
        return replica

    def cached(self, key: Hashable, build: Callable[[], Tensor]) -> Tensor:
        """`build()`, made from this module; where no gradient is recorded, kept until a parameter changes."""
        if not inference_path():
            return build()
        sources: list[Tensor] = []
        for part in (self.first, *self.rest):  # `parameters`, which goes into all parts, takes many times as long
            inside = part.parameters() if part._modules else part._parameters.values()
            sources += [tensor for tensor in inside if tensor is not None]
        return self._tables.get(key, sources, build) if sources else build()  # DataParallel hides them

    def forward(self, offsets_y: Tensor, offsets_x: Tensor) -> Tensor:
        """Bias of every pair of offsets: (Uy,), (Ux,) -> (heads, Uy, Ux). Never autocast: bf16 rounds offsets."""
        offsets = torch.stack(torch.meshgrid(offsets_y, offsets_x, indexing="ij"), dim=-1)
        weight, device = self.first.weight, offsets.device.type
        if isinstance(weight, Tensor):  # a quantized layer's is a method
            offsets = offsets.to(weight.dtype)
        with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            return self.rest(self.first(offsets)).permute(2, 0, 1)

    def laid_out(self, y: "AxisOffsets", x: "AxisOffsets", dtype: torch.dtype) -> Tensor:
        """Bias of all queries on all keys, (1, heads, h * w, nh * nw), of `dtype`."""
        own = type(self) is DynamicPositionBias and not has_hooks(self)
        nw, device = x.index.shape[1], x.values.device
        if not own or not takes(self.first, self.rest, keys_across=nw, device=device, dtype=dtype):
            return gather_bias(self(y.values, x.values).to(dtype), y.index, x.index)
        weights = (tensor for part in (self.first, *self.rest) for tensor in part._parameters.values())
        axes = tuple((axis.values, axis.index, axis.query) for axis in (y, x))
        return LaidOutBias.apply(axes, dtype, *weights)


@dataclass(frozen=True)
class AxisOffsets:
    """The offsets between queries and keys along one axis, in cells."""

    values: Tensor  # (U,) the distinct offsets, ascending
    index: Tensor  # (queries, keys) position of each pair's offset in `values`
    query: Tensor  # (U, keys) the query of a key's pair with this offset, -1 where there is none


def axis_offsets(num_queries: int, centers_doubled: list[int], *, device: torch.device | None = None) -> AxisOffsets:
    """Offsets from query cells 0, 1, ... to keys at the given (doubled) coordinates: query minus key.

    The values run in steps of one cell, or of half a cell where some keys lie between cells and others on them. They
    are kept for each size, where nothing is compiled or traced: to make them again, a GPU is waited for every time.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed():
        return _axis_offsets(num_queries, tuple(centers_doubled), device)
    with torch.inference_mode(False):  # kept for training too
        return _kept_axis_offsets(num_queries, tuple(centers_doubled), device)


def _axis_offsets(num_queries: int, centers_doubled: tuple[int, ...], device: torch.device | None) -> AxisOffsets:
    step = 1 if any((center - centers_doubled[0]) % 2 for center in centers_doubled) else 2
    queries = torch.arange(num_queries, device=device) * 2
    keys = torch.tensor(centers_doubled, device=device)
    low = -max(centers_doubled)
    count = (2 * (num_queries - 1) - min(centers_doubled) - low) // step + 1
    values = (torch.arange(count, device=device) * step + low).float() / 2
    index = (queries[:, None] - keys[None, :] - low) // step
    doubled = (torch.arange(count, device=device) * step + low)[:, None] + keys[None, :]
    there = (doubled % 2 == 0) & (doubled >= 0) & (doubled < 2 * num_queries)
    return AxisOffsets(values, index, torch.where(there, doubled // 2, -1))


_kept_axis_offsets = lru_cache(maxsize=64)(_axis_offsets)


def gather_bias(table: Tensor, index_y: Tensor, index_x: Tensor) -> Tensor:
    """Lay a table out for attention: (heads, Uy, Ux), (h, nh), (w, nw) -> (1, heads, h * w, nh * nw)."""
    index = index_y[:, None, :, None] * table.shape[2] + index_x[None, :, None, :]  # (h, w, nh, nw)
    bias = table.flatten(1).index_select(1, index.flatten())  # indexing by two tensors takes several times as long
    return bias.view(1, table.shape[0], index_y.shape[0] * index_x.shape[0], -1)


def window_bias(
    bias: DynamicPositionBias, *, window_size: int, dtype: torch.dtype, device: torch.device | None = None
) -> Tensor:
    """B_W of Eq. 5 for one full window: (1, heads, R * R, R * R). The unit is one token of the window, whatever D is.

    In cells the offsets of a dilated window would grow with the map; in tokens the table is the same at every size.
    """

    def build() -> Tensor:
        axis = axis_offsets(window_size, list(range(0, 2 * window_size, 2)), device=device)
        return bias.laid_out(axis, axis, dtype)

    return bias.cached((window_size, dtype, device), build)


def crop_window_bias(bias: Tensor, *, window_size: int, tokens: tuple[int, int]) -> Tensor:
    """B_W for a window cut short to `tokens` (rows, columns): (1, heads, R * R, R * R) -> (1, heads, n, n)."""
    R, (rows, columns) = window_size, tokens
    if rows == columns == R:
        return bias
    heads = bias.shape[1]
    square = bias.view(heads, R, R, R, R)[:, :rows, :columns, :rows, :columns]
    return square.reshape(1, heads, rows * columns, rows * columns)
