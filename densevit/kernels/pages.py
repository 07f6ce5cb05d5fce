"""New maps on large pages of memory: the system clears and hands it out page by page, 512 small ones for one large."""

import ctypes
import mmap
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

LARGE_BYTES = 2**21
"""Maps of at least this size ask for large pages; the system needs so much in one piece."""


def new_map(*shape: int, like: Tensor) -> Tensor:
    """`like.new_empty(shape)`, on large pages where the system has them (Linux, `transparent_hugepage`)."""
    x = like.new_empty(shape)
    if torch.compiler.is_compiling() or not x.is_cpu:
        return x
    size, advise = x.nbytes, _madvise()
    if size >= LARGE_BYTES and advise is not None:
        first = -(-x.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (x.data_ptr() + size) // mmap.PAGESIZE * mmap.PAGESIZE
        advise(first, last - first, mmap.MADV_HUGEPAGE)  # advice: where it fails, the map is as it was
    return x


def new_map_like(x: Tensor) -> Tensor:
    """`torch.empty_like(x)` of a contiguous map, on large pages."""
    return new_map(*x.shape, like=x)


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    function = getattr(ctypes.CDLL(None), "madvise", None) if hasattr(mmap, "MADV_HUGEPAGE") else None
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
