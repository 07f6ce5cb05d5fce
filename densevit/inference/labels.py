"""Logits to label maps, without holding every class at full size. Shapes: B batch, K classes, H W pixels.

The usual two steps, bilinear upsampling of all K classes and then argmax over a strided axis, write and read
K full-size planes. Here one class at a time is upsampled and compared with the best so far: the same labels,
a K-th of the memory.
"""

import torch
from torch import Tensor

from densevit.inference.resize import Size, resize_bilinear

PLANES_ON_DEVICE = 8
"""Classes upsampled together on an accelerator, where one plane is too little work for one kernel."""


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
    """(K, h, w) -> (H, W) int64, one class at a time: two planes of scores stay in the processor's cache."""
    K = logits.shape[0]
    kind = torch.uint8 if K <= 256 else torch.int32
    best = resize_bilinear(logits[None, :1].float(), size=size)[0, 0].clone()
    labels = torch.zeros(size, dtype=kind, device=logits.device)
    beaten = torch.empty_like(labels)
    for k in range(1, K):
        plane = resize_bilinear(logits[None, k : k + 1].float(), size=size)[0, 0]
        torch.gt(plane, best, out=beaten)
        torch.maximum(best, plane, out=best)
        # k only grows, so the last class that beat the best is the largest one: a vector maximum, no masking.
        torch.maximum(labels, beaten.mul_(k), out=labels)
    return labels.long()


def _labels_by_chunk(logits: Tensor, size: Size) -> Tensor:
    """(K, h, w) -> (H, W) int64, a few classes at a time, for accelerators."""
    best = torch.full(size, -torch.inf, device=logits.device)
    labels = torch.zeros(size, dtype=torch.int64, device=logits.device)
    for first in range(0, logits.shape[0], PLANES_ON_DEVICE):
        chunk = logits[None, first : first + PLANES_ON_DEVICE].float()
        scores, classes = resize_bilinear(chunk, size=size)[0].max(dim=0)
        beaten = scores > best
        labels = torch.where(beaten, classes + first, labels)
        best = torch.maximum(best, scores)
    return labels
