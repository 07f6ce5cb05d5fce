"""The first two blocks of the stem in inference, of an image and in bfloat16: nothing is written down in between.

cuDNN takes three channels by a slow way of its own, and each pass over the widest maps there are takes as long as all
that is computed on them.
"""

import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.tiles import PROGRAMS, cdiv, gelu, launch, long, power_of_two, read, write

ELEMENTS = 2**13
"""Of a tile of the result."""


def stem(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, matrix: Tensor, scale2: Tensor, shift2: Tensor,
    out: Tensor, B: int, H: int, W: int, C: int,
) -> None:  # fmt: skip
    """out (B, Ho, Wo, D) <- GELU(norm2(GELU(norm(conv(x))) @ matrix.t())), of images x (B, H, W, C).

    `weight` (D, 9 * C), by rows, columns and channels, is that of a 3x3 convolution with stride 2; `matrix` is (D, D).
    """
    _, Ho, Wo, D = out.shape
    cells, width, taps = B * Ho * Wo, max(16, power_of_two(D)), max(16, power_of_two(9 * C))
    pixels = min(128, ELEMENTS // width)
    arguments = (x, weight, scale, shift, matrix, scale2, shift2, out, cells, H, W, Ho, Wo, D)
    launch(_stem, (min(PROGRAMS, cdiv(cells, pixels)),), arguments, (C, pixels, taps, width))


@triton.jit
def _norm_gelu(x, scale, shift, d, D):
    inside = d < D
    return gelu(x * read(scale + d, inside)[None, :] + read(shift + d, inside)[None, :])


@triton.jit(do_not_specialize=["cells", "H", "W", "Ho", "Wo"])
def _stem(
    x, weight, scale, shift, matrix, scale2, shift2, out, cells, H, W, Ho, Wo, D,
    C: tl.constexpr, PIXELS: tl.constexpr, TAPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    k, d = tl.arange(0, TAPS), tl.arange(0, WIDTH)
    row, column, tap, inside = k // (3 * C), k // C % 3, k < 9 * C, d < D
    first = tl.load(weight + d[:, None] * (9 * C) + k[None, :], mask=inside[:, None] & tap[None, :], other=0.0)
    second = tl.load(matrix + d[:, None] * D + d[None, :], mask=inside[:, None] & inside[None, :], other=0.0)
    for tile in range(tl.program_id(0), tl.cdiv(cells, PIXELS), tl.num_programs(0)):
        p = tile * PIXELS + tl.arange(0, PIXELS)
        i, j = (p // Wo % Ho * 2 - 1)[:, None] + row[None, :], (p % Wo * 2 - 1)[:, None] + column[None, :]
        there = (p < cells)[:, None] & tap[None, :] & (i >= 0) & (i < H) & (j >= 0) & (j < W)
        at = (long(p // (Ho * Wo))[:, None] * H + i) * W + j
        patches = tl.load(x + at * C + (k % C)[None, :], mask=there, other=0.0).to(first.dtype)
        hidden = _norm_gelu(tl.dot(patches, tl.trans(first)), scale, shift, d, D)
        result = _norm_gelu(tl.dot(hidden.to(second.dtype), tl.trans(second)), scale2, shift2, d, D)
        write(out + long(p)[:, None] * D + d[None, :], result, (p < cells)[:, None] & inside[None, :])
