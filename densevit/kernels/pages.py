"""Memory of large maps on a CPU: on large pages, and kept for the next map when one is gone, as CUDA's allocator does.

The system clears every page that it hands out, 512 small ones for one large. The C library returns large maps to it at
once and asks for them anew: a training step would have all its maps cleared, which took 5 to 10 % of its time.
"""

import ctypes
import math
import mmap
import weakref

import torch
from torch import Tensor

LARGE_BYTES = 2**21
"""Maps of at least this size are kept; it is also the size of a large page."""
SLACK = 1.25
"""How much may be held in all: so many times what was in use at once."""


def new_map(*shape: int, like: Tensor) -> Tensor:
    """`like.new_empty(shape)`; a large one on a CPU in kept memory, where the system has large pages (Linux)."""
    count = math.prod(shape)
    size = count * like.element_size()
    if size < LARGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE") or torch.compiler.is_compiling() or not like.is_cpu:
        return like.new_empty(shape)
    return torch.frombuffer(_kept.take(size), dtype=like.dtype, count=count).view(shape)


def new_map_like(x: Tensor) -> Tensor:
    """`torch.empty_like(x)` of a contiguous map."""
    return new_map(*x.shape, like=x)


def give_back() -> None:
    """Return the memory of maps that are gone to the system, as `torch.cuda.empty_cache` does on a GPU."""
    _kept.free.clear()


class _Memory:
    """Pieces of memory, each lent to one map for as long as that lives.

    Python runs this from several threads, and returns a piece whenever a map goes: only single steps on lists and
    dictionaries change what is held.
    """

    def __init__(self) -> None:
        self.free: list[mmap.mmap] = []
        self.lent: dict[int, mmap.mmap] = {}
        self.peak = 0

    def take(self, size: int) -> memoryview:
        piece = self._fitting(size) or self._new(size)
        self.lent[id(piece)] = piece
        first = -ctypes.addressof(ctypes.c_char.from_buffer(piece)) % LARGE_BYTES
        view = memoryview(piece)[first : first + size]
        weakref.finalize(view, self._return, id(piece)).atexit = False  # the map's storage holds the view
        return view

    def _return(self, name: int) -> None:
        self.free.append(self.lent.pop(name))

    def _fitting(self, size: int) -> mmap.mmap | None:
        """The smallest free piece that is large enough and not much larger."""
        most = SLACK * _rounded(size)
        for piece in sorted(self.free, key=len):
            if _rounded(size) <= len(piece) <= most:
                try:
                    self.free.remove(piece)
                except ValueError:  # another thread was faster
                    continue
                return piece
        return None

    def _new(self, size: int) -> mmap.mmap:
        """From the system; pieces that no map has asked for the longest go back to it first."""
        size, lent = _rounded(size), sum(map(len, [*self.lent.values()]))
        self.peak = max(self.peak, lent + size)
        while self.free and lent + size + sum(map(len, [*self.free])) > SLACK * self.peak:
            self.free.pop(0)
        piece = mmap.mmap(-1, size)
        piece.madvise(mmap.MADV_HUGEPAGE)  # advice, which the system may not take
        return piece


def _rounded(size: int) -> int:
    """Whole large pages, and one more for the first to start where it must."""
    return (-(-size // LARGE_BYTES) + 1) * LARGE_BYTES


_kept = _Memory()
