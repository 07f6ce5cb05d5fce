"""Products of many float32 rows with a small matrix, on tensor cores and as exact as float32. As `source/linear.cpp`.

Numbers are split in two of eleven bits (tf32), and three products of the halves taken. Tensor cores cut off what does
not fit their sums, so they add up no more than `STEP` terms before the float32 sum, which rounds, takes over. An
infinity, or a number that rounds to one in eleven bits, gives no number.
"""

import triton
import triton.language as tl
from torch import Tensor

from densevit.kernels.gpu.tiles import cdiv, halves, launch, long

ROWS, COLUMNS, STEP = 128, 64, 32
"""Of a tile of the result, and terms of a product taken at a time."""
WARPS = 8
SPLIT = 1024


def product(
    x: Tensor, matrix: Tensor, bias: Tensor | None, addend: Tensor | None, out: Tensor, rows: int, depth: int,
    width: int, transposed: int,
) -> None:  # fmt: skip
    """out (rows, width) <- x (rows, depth) @ matrix + bias + addend; `addend` may be `out`."""
    parts = x.new_empty(2, width, depth)
    launch(_split, (cdiv(width * depth, SPLIT),), (matrix, parts, width, depth), (transposed, SPLIT))
    blocks = cdiv(width, COLUMNS)
    arguments = (x, parts, bias, addend, out, rows, depth, width, blocks)
    launch(_product, (blocks * cdiv(rows, ROWS),), arguments, (ROWS, COLUMNS, STEP), warps=WARPS)


@triton.jit
def _split(matrix, parts, width, depth, TRANSPOSED: tl.constexpr, SPLIT: tl.constexpr):
    """parts (2, width, depth): as tensor cores read them."""
    at = tl.program_id(0) * SPLIT + tl.arange(0, SPLIT)
    count = width * depth
    place = at if TRANSPOSED else at % depth * width + at // depth
    leading, rest = halves(tl.load(matrix + place, mask=at < count, other=0.0))
    tl.store(parts + at, leading, mask=at < count)
    tl.store(parts + count + at, rest, mask=at < count)


@triton.jit(do_not_specialize=["rows", "blocks"])
def _product(
    x, parts, bias, addend, out, rows, depth, width, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    n, k = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, STEP)
    there, inside = (r < rows)[:, None], (n < width)[None, :]
    of_x, of_matrix = x + long(r)[:, None] * depth + k[None, :], parts + n[:, None] * depth + k[None, :]
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, depth, STEP):
        left = (first + k < depth)[None, :]
        a, a_rest = halves(tl.load(of_x + first, mask=there & left, other=0.0))
        b = tl.trans(tl.load(of_matrix + first, mask=(n < width)[:, None] & left, other=0.0))
        b_rest = tl.trans(tl.load(of_matrix + width * depth + first, mask=(n < width)[:, None] & left, other=0.0))
        part = tl.dot(a_rest, b, input_precision="tf32")
        part = tl.dot(a, b_rest, part, input_precision="tf32")
        total += tl.dot(a, b, part, input_precision="tf32")
    if bias is not None:
        total += tl.load(bias + n, mask=n < width, other=0.0)[None, :]
    at = long(r)[:, None] * width + n[None, :]
    if addend is not None:
        total += tl.load(addend + at, mask=there & inside, other=0.0)
    tl.store(out + at, total, mask=there & inside)
