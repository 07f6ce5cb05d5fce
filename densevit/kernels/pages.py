"""Memory of large maps on a CPU: on large pages, and kept for the next map when one is gone, as CUDA's allocator does.

The system clears every page that it hands out, 512 small ones for one large. The C library returns large maps to it at
once and asks for them anew: a training step would have all its maps cleared, which took 5 to 23 % of its time.
"""

import bisect
import math
import mmap
import os
import threading
import weakref
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

LARGE_BYTES = 2**18
"""Maps of at least this size are kept; the C library fills the gaps that smaller ones leave."""
LINE, GAP = 64, 192
"""Bytes of a cache line, and between maps, lest all start at a whole page: most are whole pages long."""
MAP_NORESERVE = 0x4000  # of Linux; Python names it since 3.13


def new_map(*shape: int, like: Tensor) -> Tensor:
    """`like.new_empty(shape)`; a large one on a CPU in kept memory, where the system has large pages (Linux)."""
    if not like.is_cpu:
        return like.new_empty(shape)
    if torch.compiler.is_compiling():
        return torch.ops.densevit.new_map(shape, like.dtype)
    return kept_map(shape, like.dtype)


def kept_map(shape: Sequence[int], dtype: torch.dtype, *, high: bool = False) -> Tensor:
    """As `new_map` on a CPU, whether another thread compiles or not."""
    count = math.prod(shape)
    size = count * dtype.itemsize
    memory = _memory() if size >= LARGE_BYTES else None
    view = None if memory is None else memory.take(size, high=high)
    if view is None:
        return torch.empty(shape, dtype=dtype, device="cpu")
    return torch.frombuffer(view, dtype=dtype, count=count).view(shape)


def new_gradient(*shape: int, like: Tensor) -> Tensor:
    """As `new_map` on a CPU, for what outlives the maps around it: out of their way, where the last of them were."""
    return kept_map(shape, like.dtype, high=True)


def new_map_like(x: Tensor) -> Tensor:
    """`torch.empty_like(x)` of a contiguous map."""
    return new_map(*x.shape, like=x)


def give_back() -> None:
    """Return the memory of maps that are gone to the system, as `torch.cuda.empty_cache` does on a GPU."""
    memory = _memory()
    if memory is not None:
        memory.give_back()


class Memory:
    """A range of addresses, lent to maps piece by piece: the system gives memory to what of it is written to.

    A piece is the first free one that is large enough, or the highest that was in use before; it returns when the map
    goes, and joins its neighbours.
    """

    def __init__(self, size: int) -> None:
        self.whole = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        self.whole.madvise(mmap.MADV_HUGEPAGE)
        self.free = [(0, size)]  # first byte and size, in order
        self.end = 0  # of what was in use since memory was last given back
        self.returned: list[tuple[int, int]] = []
        self.lock = threading.Lock()

    def take(self, size: int, *, high: bool = False) -> memoryview | None:
        """A piece; None where there is none, or another thread is here."""
        wanted = -(-size // LINE) * LINE + GAP
        if not self.lock.acquire(blocking=False):
            return None
        try:
            self._join()
            found = self._highest(wanted) if high else None
            found = found or next(((i, first) for i, (first, length) in enumerate(self.free) if length >= wanted), None)
            if found is None:
                return None
            self._cut(*found, wanted)
        finally:
            self.lock.release()
        first = found[1]
        view = memoryview(self.whole)[first : first + size]
        # The map's storage holds the view. Maps go at any moment: only a step that none can interrupt happens then.
        weakref.finalize(view, self.returned.append, (first, wanted)).atexit = False
        return view

    def _highest(self, size: int) -> tuple[int, int] | None:
        """The last free piece, and the last byte in it, from where `size` bytes were in use before."""
        for place in reversed(range(len(self.free))):
            first, length = self.free[place]
            start = min(first + length, self.end) - size
            if start >= first:
                return place, start
        return None

    def _cut(self, place: int, start: int, size: int) -> None:
        """Take `size` bytes from `start` out of a free piece."""
        first, length = self.free[place]
        rest = (first, start - first), (start + size, first + length - start - size)
        self.free[place : place + 1] = [piece for piece in rest if piece[1]]
        self.end = max(self.end, start + size)

    def give_back(self) -> None:
        """Return what is free to the system."""
        with self.lock:
            self._join()
            for first, length in self.free:
                start, end = -(-first // mmap.PAGESIZE), (first + length) // mmap.PAGESIZE  # whole pages
                if end > start:
                    self.whole.madvise(mmap.MADV_DONTNEED, start * mmap.PAGESIZE, (end - start) * mmap.PAGESIZE)
                if first + length == len(self.whole):
                    self.end = first

    def _join(self) -> None:
        """Put what has returned among the free pieces."""
        while self.returned:
            first, length = self.returned.pop()
            place = bisect.bisect(self.free, (first, length))
            if place < len(self.free) and self.free[place][0] == first + length:
                length += self.free.pop(place)[1]
            if place and sum(self.free[place - 1]) == first:
                place -= 1
                first, length = self.free[place][0], length + self.free.pop(place)[1]
            self.free.insert(place, (first, length))


@cache
def _memory() -> Memory | None:
    """As many addresses as the machine has memory."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        return Memory(os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE)
    except OSError:  # the process may not have so many (`ulimit -v`)
        return None
