"""Masks as COCO's run-length codes, by the evaluator's own functions. N masks, H W their height and width."""

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from densevit.errors import UserError


def coco_library() -> ModuleType:
    """`faster_coco_eval`; UserError where it is not installed."""
    try:
        import faster_coco_eval
    except ImportError as error:
        raise UserError(
            "scores and masks of detection need faster-coco-eval; install it: pip install 'densevit[detection]'"
        ) from error
    library: ModuleType = faster_coco_eval
    return library


def encode_masks(masks: Tensor) -> list[bytes]:
    """(N, H, W) masks, true where not 0 -> the compressed code of each, as COCO's files have it."""
    if not len(masks):
        return []
    # The library reads column by column: (N, W, H) in memory, seen as (H, W, N), is that without another copy.
    columns = masks.detach().to(torch.bool).transpose(1, 2).contiguous().to(torch.uint8).cpu().numpy()
    return [bytes(code["counts"]) for code in coco_library().mask.encode(np.transpose(columns, (2, 1, 0)))]


def decode_masks(codes: list[bytes], *, size: tuple[int, int]) -> Tensor:
    """The masks again: (N, H, W) bool; `size` is (H, W)."""
    if not codes:
        return torch.zeros(0, *size, dtype=torch.bool)
    masks = coco_library().mask.decode([{"size": list(size), "counts": code} for code in codes])
    return torch.from_numpy(np.ascontiguousarray(np.transpose(masks, (2, 0, 1)))).bool()


def mask_areas(codes: list[bytes], *, size: tuple[int, int]) -> list[float]:
    """Number of pixels of each mask."""
    if not codes:
        return []
    areas = coco_library().mask.area([{"size": list(size), "counts": code} for code in codes])
    return [float(area) for area in areas]
