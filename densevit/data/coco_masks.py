"""Masks of objects as data sets store them: polygons and run-length codes, kept compactly, drawn when asked for.

COCO's `segmentation` is a list of polygons [x1, y1, x2, y2, ...] in pixels, or {"size": [H, W], "counts": ...} with
counts as a list of run lengths, column by column and starting with zeros, or as COCO's compressed text.
"""

import math
from array import array
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densevit.errors import UserError

CHUNK = 32
"""Masks drawn at once: the library's result is a second copy of them."""


def mask_library() -> ModuleType:
    """`faster_coco_eval.mask`, which draws polygons and run lengths exactly as pycocotools; UserError if missing."""
    try:
        from faster_coco_eval import mask
    except ImportError as error:
        raise UserError(
            "masks of detection data need faster-coco-eval; install it: pip install 'densevit[detection]'"
        ) from error
    library: ModuleType = mask
    return library


class MaskStore:
    """The masks of many objects in a few flat arrays, which loading processes share. Objects count from 0.

    Objects as Python lists would be copied into each loading process as it reads them.
    """

    def __init__(self) -> None:
        self._values = array("d")
        self._part_ends = array("q")  # in values
        self._codes = bytearray()
        self._object_parts = array("q", [0])  # parts up to each object
        self._object_codes = array("q", [0])  # bytes up to each object

    def __len__(self) -> int:
        return len(self._object_parts) - 1

    def add_polygons(self, parts: Sequence[Sequence[float]]) -> None:
        """The next object, of one or more polygons that `polygon_fault` has passed; none: it has no mask."""
        for part in parts:
            self._values.extend(part)
            self._part_ends.append(len(self._values))
        self._close()

    def add_code(self, code: bytes) -> None:
        """The next object, a compressed run-length code of the size of its image."""
        self._codes += code
        self._close()

    def _close(self) -> None:
        self._object_parts.append(len(self._part_ends))
        self._object_codes.append(len(self._codes))

    def decode(
        self, numbers: Sequence[int] | NDArray[np.int64], *, size: tuple[int, int], scale: tuple[float, float] = (1, 1)
    ) -> NDArray[np.bool_]:
        """Masks of the objects `numbers`: bool (n, H, W), with `size` = (H, W); polygons are times `scale` (x, y)."""
        masks = np.zeros((len(numbers), *size), dtype=np.bool_)
        library = mask_library()
        for start in range(0, len(numbers), CHUNK):
            codes = [self._code(int(number), size, scale, library) for number in numbers[start : start + CHUNK]]
            masks[start : start + CHUNK] = np.transpose(library.decode(codes), (2, 0, 1))  # from (H, W, n)
        return masks

    def _code(self, number: int, size: tuple[int, int], scale: tuple[float, float], library: ModuleType) -> Any:
        first, last = self._object_codes[number : number + 2]
        if last > first:
            return {"size": list(size), "counts": bytes(self._codes[first:last])}
        parts = [
            (np.asarray(self._values[self._part_start(part) : self._part_ends[part]]).reshape(-1, 2) * scale)
            .reshape(-1)
            .tolist()
            for part in range(*self._object_parts[number : number + 2])
        ]
        if not parts:
            return library.frPyObjects({"size": list(size), "counts": [size[0] * size[1]]}, *size)
        return library.merge(library.frPyObjects(parts, *size))

    def _part_start(self, part: int) -> int:
        return self._part_ends[part - 1] if part else 0


def polygon_fault(part: Any, *, size: tuple[float, float]) -> str | None:
    """What is wrong with one polygon [x1, y1, ...], in words; None if nothing. `size` is the image's (H, W).

    Corners far outside the image are refused: drawing such an edge takes memory for each pixel that it crosses.
    """
    if not isinstance(part, (list, tuple)):
        return "a polygon is a list [x1, y1, x2, y2, ...], and a segmentation a list of polygons"
    try:
        finite = math.isfinite(sum(part))
    except (TypeError, OverflowError):
        return "a polygon holds a value that is no number, or far too large a one"
    if not finite:
        return "a polygon holds a value that is not finite"
    if len(part) % 2:
        return f"a polygon has {len(part)} numbers; it takes pairs x, y"
    if len(part) < 6:
        return f"a polygon has {len(part) // 2} points; it takes at least 3"
    reach = max(size)
    if min(part) < -reach or max(part) > 2 * reach:
        return f"a polygon reaches from {min(part):g} to {max(part):g}, far outside the image"
    return None


def compressed_code(rle: dict[str, Any], *, size: tuple[int, int]) -> bytes:
    """COCO's {"size", "counts"} of either kind as a checked, compressed code. UserError says what is wrong."""
    counts, stated = rle.get("counts"), rle.get("size")
    if not isinstance(stated, (list, tuple)) or tuple(stated) != size:
        raise UserError(f"its run-length mask is of size {stated}, its image [{size[0]}, {size[1]}] (H, W)")
    if isinstance(counts, str):
        code = counts.encode("ascii", errors="replace")
        runs = run_lengths(code)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        runs = np.array(counts, dtype=np.int64)
        code = b""
    else:
        raise UserError("the counts of its run-length mask are neither text nor a list of whole numbers")
    if (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise UserError(
            f"its run-length mask covers {int(runs.sum())} pixels, its image has {size[0] * size[1]}; is it cut off?"
        )
    return code or bytes(mask_library().frPyObjects({"size": list(size), "counts": counts}, *size)["counts"])


def run_lengths(code: bytes) -> NDArray[np.int64]:
    """The run lengths in COCO's compressed text: groups of 5 bits, lowest first, each run less the one two before it.

    UserError for bytes that no such text holds. The library cannot be asked: it takes codes that end too early.
    """
    groups = np.frombuffer(code, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((groups & 32) == 0)  # bit 32: the run goes on in the next byte
    if not len(groups) or groups.min() < 0 or groups.max() > 63 or ends[-1:] != len(groups) - 1:
        raise UserError("its run-length mask is no text of COCO's form")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise UserError("its run-length mask holds a run longer than any image")
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((groups & 31) << (5 * place), starts)
    runs -= np.where(groups[ends] & 16, 1 << (5 * lengths), 0)  # bit 16 of the last group: negative
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
