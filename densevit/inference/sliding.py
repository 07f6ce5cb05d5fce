"""Sliding-window inference: overlapping windows through a network, their logits averaged.

Shapes: B images, K classes, H W image, h w window, all in pixels. Knows no model: `forward` is any callable
images (n, C, h, w) -> logits (n, K, h, w).
"""

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor

from densevit.errors import UserError
from densevit.inference.resize import Size, covering_size, resize_bilinear


def window_starts(size: int, *, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side of `size` pixels; the last window is shifted back inside.

    Protocol of the authors' code: ceil((size - window) / stride) + 1 windows, at least one.
    """
    num_windows = max(size - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride, size - window), 0) for i in range(num_windows)]


@torch.no_grad()
def slide(
    forward: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    num_classes: int,
    crop_size: Size,
    stride: Size,
    window_batch: int = 1,
) -> Tensor:
    """Average the logits of overlapping windows: images (B, C, H, W) -> logits (B, K, H, W) in float32.

    Windows of `crop_size` start every `stride` pixels, the last one of a row or column shifted back inside.
    Images smaller than the window are enlarged to hold it, proportions kept, and the logits brought back to
    (H, W). At most `window_batch` windows go through `forward` at once. Each window is added in place to its
    part of the result, so memory is the result plus one batch of windows. Gradients are not kept.

    UserError for a stride that leaves gaps, or where `forward` returns other than (n, num_classes, h, w).
    """
    _check_grid(crop_size, stride, window_batch)
    original_size = (image.shape[-2], image.shape[-1])
    image = resize_bilinear(image, size=covering_size(original_size, window=crop_size))
    (B, _, H, W), (h, w) = image.shape, crop_size
    tops = window_starts(H, window=h, stride=stride[0])
    lefts = window_starts(W, window=w, stride=stride[1])

    logits = torch.zeros(B, num_classes, H, W, device=image.device)
    places = ((b, top, left) for b in range(B) for top in tops for left in lefts)
    for batch in _batches(places, window_batch):
        windows = torch.stack([image[b, :, top : top + h, left : left + w] for b, top, left in batch])
        scores = forward(windows)
        if scores.shape != (len(batch), num_classes, h, w):
            raise UserError(
                f"windows {tuple(windows.shape)} gave logits {tuple(scores.shape)}; sliding needs "
                f"{(len(batch), num_classes, h, w)}: {num_classes} classes at the window's size"
            )
        for (b, top, left), score in zip(batch, scores, strict=True):
            logits[b, :, top : top + h, left : left + w].add_(score)
    logits /= _counts(tops, h, H, image.device)[:, None] * _counts(lefts, w, W, image.device)
    return resize_bilinear(logits, size=original_size)


def _counts(starts: list[int], window: int, size: int, device: torch.device) -> Tensor:
    """How many windows cover each pixel of one side: (size,). The map of an image is the product of its two sides."""
    counts = torch.zeros(size)
    for start in starts:
        counts[start : start + window] += 1
    return counts.to(device)


def _batches(places: Iterator[tuple[int, int, int]], size: int) -> Iterator[list[tuple[int, int, int]]]:
    while batch := list(islice(places, size)):
        yield batch


def _check_grid(crop_size: Size, stride: Size, window_batch: int) -> None:
    if not all(1 <= step <= side for step, side in zip(stride, crop_size, strict=True)):
        raise UserError(
            f"stride {tuple(stride)} leaves pixels out of windows of {tuple(crop_size)}; "
            "give strides from 1 to the window's side"
        )
    if window_batch < 1:
        raise UserError(f"window_batch is {window_batch}; it must be at least 1")
