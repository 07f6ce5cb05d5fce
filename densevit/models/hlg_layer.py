"""The HLG transformer layer (Sec. 3.3): DWMLP, spatial smoothing, local and global attention with shared projections.

Shapes: B batch, H W map, C channels, R window size. Maps are (B, H, W, C) and contiguous from stem to head, which is
torch's channels-last layout seen from the other side: linear layers, norms and windows use it as it is, convolutions
through a permuted view, and nothing is ever copied between the two.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import DropPath, SqueezeExcite
from torch import Tensor, nn

from densevit.errors import UserError, unknown_name
from densevit.models.attention import BiasedAttention, window_attention
from densevit.models.conv_norm import ConvNorm, in_cached_parts, in_sequence, inference_path
from densevit.models.dwmlp_kernels import takes, train_dwmlp
from densevit.models.position_bias import DynamicPositionBias, window_bias
from densevit.models.untouched import made_of
from densevit.models.windows import WindowGrid, pad_map, pool_windows, window_grid

WINDOW_EMBEDDINGS = ("avgpool", "maxpool", "dwconv")
LOCAL_KEYS = ("query", "own")


def conv_nhwc(conv: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a module that expects (B, C, H, W) to a (B, H, W, C) map: views only."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DWMLP(nn.Module):
    """(B, H, W, C_in) -> (B, ceil(H / stride), ceil(W / stride), C).

    1x1 to 4 * C_in, BN, GELU, 3x3 depth-wise, BN, GELU, 1x1 to C. The hidden width follows the input width: no other
    choice fits the paper's counts, and neither does the text's squeeze-and-excitation (off by default).
    """

    def __init__(
        self, in_dim: int, dim: int, *, stride: int = 1, mlp_ratio: float = 4.0, squeeze_excite: bool = False
    ) -> None:
        super().__init__()
        hidden = int(in_dim * mlp_ratio)
        if hidden < 1:
            raise UserError(
                f"mlp_ratio {mlp_ratio} of {in_dim} channels is less than one; use at least {1 / in_dim:.3g}"
            )
        self.ratio = math.ceil(mlp_ratio)
        self.expand = ConvNorm(in_dim, hidden, bias=True)
        self.depthwise = ConvNorm(hidden, hidden, kernel_size=3, stride=stride, groups=hidden, bias=True)
        self.squeeze = SqueezeExcite(hidden, rd_ratio=0.25) if squeeze_excite else nn.Identity()
        self.project = nn.Linear(hidden, dim)
        self.made = made_of(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.beside(x)[1]

    def beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`x` and the result. Where this `x` is used again, its gradients meet inside the backward pass."""
        if not isinstance(self.squeeze, nn.Identity):
            return x, self.project(conv_nhwc(self.squeeze, in_sequence(x, self.expand, self.depthwise)))
        blocks = self.expand, self.depthwise, self.project
        return train_dwmlp(x, *blocks) if takes(x, *blocks) else (x, in_sequence(x, *blocks))


class SpatialSmoothing(nn.Module):
    """x -> GELU(x + S(x)), S = 1x1 to C / 4, BN, GELU, 3x3, BN, GELU, 1x1 to C, BN: (B, H, W, C) kept.

    In the paper's counts and in the published code, not in its text.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = dim // 4
        self.reduce = ConvNorm(dim, hidden)
        self.conv = ConvNorm(hidden, hidden, kernel_size=3)
        self.expand = ConvNorm(hidden, dim, act=False)
        self.made = made_of(self)

    def forward(self, x: Tensor) -> Tensor:
        x = in_sequence(x, self.reduce, self.conv, self.expand) + x
        return torch.ops.aten.gelu_(x) if inference_path() else F.gelu(x)


class WindowEmbedding(nn.Module):
    """One token per window, then LN (Z_G): (B, H, W, C) -> (B, windows, C). Padded cells take no part."""

    def __init__(self, dim: int, *, kind: str, window_size: int) -> None:
        super().__init__()
        if kind not in WINDOW_EMBEDDINGS:
            raise unknown_name("window embedding", kind, WINDOW_EMBEDDINGS)
        self.kind = kind
        self.conv = None if kind != "dwconv" else nn.Conv2d(dim, dim, window_size, stride=window_size, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.made = made_of(self)

    def _pool(self, windows: Tensor) -> Tensor:
        """Rows, then columns: one reduction over both is many times slower on a CPU."""
        if self.conv is None:
            return windows.mean(dim=2).mean(dim=4) if self.kind == "avgpool" else windows.amax(dim=2).amax(dim=4)
        rows, columns = windows.shape[2], windows.shape[5]  # a short window meets the kernel's first rows and columns
        kernel = self.conv.weight[:, 0, :rows, :columns].permute(1, 2, 0)[:, None, None, :, None]
        pooled = (windows * kernel).sum(dim=2).sum(dim=4)
        return pooled if self.conv.bias is None else pooled + self.conv.bias

    def forward(self, x: Tensor, grid: WindowGrid) -> Tensor:
        return self.norm(pool_windows(x, grid, self._pool))


class LocalGlobalAttention(nn.Module):
    """Local attention in windows, then global attention on one token per window (Eq. 4-9): (B, H, W, C) kept.

    W_Q, W_K and W_V are one parameter each for both steps (Eq. 8). With `local_key` "query" the local key is the
    query itself, as the paper's 4.7 G require; "own" uses W_K there too, Eq. 4 to the letter.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        window_size: int = 7,
        dilation: int | str = 1,
        window_embedding: str = "avgpool",
        local_key: str = "query",
        position_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if local_key not in LOCAL_KEYS:
            raise unknown_name("local key", local_key, LOCAL_KEYS)
        self.num_heads, self.window_size, self.dilation = num_heads, window_size, dilation
        self.local_key = local_key
        self.norm = nn.LayerNorm(dim)
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.local_bias = DynamicPositionBias(dim, num_heads=num_heads) if position_bias else None
        self.norm_query = nn.LayerNorm(dim)
        self.mix_query = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.embed = WindowEmbedding(dim, kind=window_embedding, window_size=window_size)
        self.attend = BiasedAttention(dim, num_heads=num_heads, position_bias=position_bias)
        self.project = nn.Linear(dim, dim)
        self.drop_path = DropPath(drop_path)
        self.made = made_of(self)

    def forward(self, x: Tensor) -> Tensor:
        grid = window_grid((x.shape[1], x.shape[2]), window_size=self.window_size, dilation=self.dilation)
        normed = self.norm(x)
        q, v = self.q(normed), self.v(normed)
        key = q if self.local_key == "query" else self.k(normed)
        local = window_attention(q, key, v, grid, num_heads=self.num_heads, bias=self.window_bias(v))  # Eq. 4, 5
        q = q + conv_nhwc(self.mix_query, self.norm_query(local))  # Eq. 9
        x = local + x
        embedded = self.embed(pad_map(x, grid), grid)
        attended = self.attend(q, self.k(embedded), self.v(embedded), centers=grid.centers_doubled)
        return self.drop_path(self.project(attended)) + x

    def window_bias(self, like: Tensor) -> Tensor | None:
        """B_W of a full window, (1, heads, R * R, R * R), of the type of `like`."""
        if self.local_bias is None:
            return None
        return window_bias(self.local_bias, window_size=self.window_size, dtype=like.dtype, device=like.device)


class FullAttention(nn.Module):
    """Self-attention over the whole map with a position bias (stage 4): (B, H, W, C) kept."""

    def __init__(self, dim: int, *, num_heads: int, position_bias: bool = True) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attend = BiasedAttention(dim, num_heads=num_heads, position_bias=position_bias)
        self.project = nn.Linear(dim, dim)
        self.made = made_of(self)

    def attended(self, qkv: Tensor) -> Tensor:
        """Between the projections: (B, H, W, 3 C) -> (B, H, W, C)."""
        _, H, W, _ = qkv.shape
        q, k, v = qkv.chunk(3, dim=-1)
        centers = list(range(0, 2 * H, 2)), list(range(0, 2 * W, 2))
        return self.attend(q, k.flatten(1, 2), v.flatten(1, 2), centers=centers)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.attended(self.qkv(x)))


class HLGLayer(nn.Module):
    """DWMLP (post-norm residual), spatial smoothing, attention: (B, H, W, C_in) -> (B, H', W', C).

    Where the layer halves the map, the residual goes through a 3x3 convolution with C_in groups, BN and GELU.

    With `full_attention` (stage 4) there is no smoothing and no local step: x + drop_path(LN(attention(x))).
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        num_heads: int,
        stride: int = 1,
        full_attention: bool = False,
        window_size: int = 7,
        dilation: int | str = 1,
        window_embedding: str = "avgpool",
        local_key: str = "query",
        position_bias: bool = True,
        mlp_ratio: float = 4.0,
        squeeze_excite: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.shortcut = ConvNorm(in_dim, dim, kernel_size=3, stride=stride, groups=in_dim) if stride > 1 else None
        self.mlp = DWMLP(in_dim, dim, stride=stride, mlp_ratio=mlp_ratio, squeeze_excite=squeeze_excite)
        self.norm1 = nn.LayerNorm(dim)
        self.drop_path = DropPath(drop_path)
        self.smooth = None if full_attention else SpatialSmoothing(dim)
        self.attn: nn.Module
        if full_attention:
            self.attn = FullAttention(dim, num_heads=num_heads, position_bias=position_bias)
            self.norm2: nn.LayerNorm | None = nn.LayerNorm(dim)
        else:
            self.attn = LocalGlobalAttention(
                dim,
                num_heads=num_heads,
                window_size=window_size,
                dilation=dilation,
                window_embedding=window_embedding,
                local_key=local_key,
                position_bias=position_bias,
                drop_path=drop_path,
            )
            self.norm2 = None
        self.made = made_of(self)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = in_cached_parts(self.mlp, x, peak=math.prod(x.shape[1:]) * self.mlp.ratio)
        x = self.drop_path(self.norm1(x)) + shortcut
        if self.smooth is not None:
            x = self.smooth(x)
        if self.norm2 is None:
            return self.attn(x)
        return self.drop_path(self.norm2(self.attn(x))) + x
