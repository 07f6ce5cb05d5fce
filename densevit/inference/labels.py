"""Logits to label maps, without holding every class at full size. Shapes: B batch, K classes, H W pixels.

The usual two steps, bilinear upsampling of all K classes and then argmax over a strided axis, write and read
K full-size planes. Here a few classes at a time are upsampled and compared with the best so far: the same labels,
a fraction of the memory.
"""

import torch
from torch import Tensor

from densevit.inference.resize import Size, resize_bilinear

VALUES_AT_ONCE = 1 << 22
"""Upsampled scores held together: 16 MiB, enough work for one call and little memory."""
PIXELS_AT_ONCE = 1 << 15
"""Pixels compared together on the CPU: they stay in its cache, and PyTorch runs so few without waking its threads,
which costs more than the work itself when other processes keep the cores busy."""


@torch.no_grad()
def labels_from_logits(logits: Tensor, *, size: Size | None = None) -> Tensor:
    """Most probable class of each pixel: (B, K, h, w) -> (B, H, W) int64 in 0 .. K-1.

    `size` is (H, W), that of the logits when None. Equal to bilinear resizing (corners not aligned) in float32
    followed by argmax; where classes tie, the first wins. Logits may be of any float type.
    """
    if logits.ndim != 4 or logits.shape[1] == 0:
        raise ValueError(f"logits are {tuple(logits.shape)}; expected (B, K, H, W) with at least one class")
    target = (logits.shape[-2], logits.shape[-1]) if size is None else (int(size[0]), int(size[1]))
    if logits.shape[1] == 1:
        return torch.zeros(logits.shape[0], *target, dtype=torch.int64, device=logits.device)
    running_max = _labels_by_plane if logits.device.type == "cpu" else _labels_by_chunk
    return torch.stack([running_max(image, target) for image in logits])


def _labels_by_plane(logits: Tensor, size: Size) -> Tensor:
    """(K, h, w) -> (H, W) int64, plane by plane, each compared strip by strip with the best so far."""
    K, num_pixels = logits.shape[0], size[0] * size[1]
    kind = torch.uint8 if K <= 256 else torch.int32
    best = torch.full((num_pixels,), -torch.inf)
    labels = torch.zeros(num_pixels, dtype=kind)
    scratch = torch.empty(min(num_pixels, PIXELS_AT_ONCE), dtype=kind)
    step = _classes_at_once(size)
    for first in range(0, K, step):
        planes = resize_bilinear(logits[None, first : first + step].float(), size=size)[0].flatten(1)
        strips = (tensor.split(PIXELS_AT_ONCE, dim=-1) for tensor in (planes, best, labels))
        for scores, best_strip, label_strip in zip(*strips, strict=True):
            beaten = scratch[: len(best_strip)]
            for k, plane in enumerate(scores, start=first):
                torch.gt(plane, best_strip, out=beaten)
                torch.maximum(best_strip, plane, out=best_strip)
                # k only grows, so the last class that beat the best is the largest: a vector maximum, no masking.
                torch.maximum(label_strip, beaten.mul_(k), out=label_strip)
    return labels.view(size).long()


def _labels_by_chunk(logits: Tensor, size: Size) -> Tensor:
    """(K, h, w) -> (H, W) int64, a few classes at a time, for accelerators."""
    best = torch.full(size, -torch.inf, device=logits.device)
    labels = torch.zeros(size, dtype=torch.int64, device=logits.device)
    step = _classes_at_once(size)
    for first in range(0, logits.shape[0], step):
        chunk = logits[None, first : first + step].float()
        scores, classes = resize_bilinear(chunk, size=size)[0].max(dim=0)
        beaten = scores > best
        labels = torch.where(beaten, classes + first, labels)
        best = torch.maximum(best, scores)
    return labels


def _classes_at_once(size: Size) -> int:
    return max(VALUES_AT_ONCE // (size[0] * size[1]), 1)
